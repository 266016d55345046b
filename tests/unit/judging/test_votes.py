"""Pairs hide their writers, votes count for exactly what was seen, and a page gives nothing away."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from explora.core.judging.comparison import Comparison
from explora.core.judging.outcome import outcome_of
from explora.core.judging.page import write_page
from explora.core.judging.pairs import Pair, make_pairs
from explora.core.judging.sign_test import SignTest
from explora.core.judging.votes import add_vote, read_votes
from explora.errors import DataError

COUNT = 8


def pairs(seed: int = 1, by_a: str = "by a") -> list[Pair]:
    numbers = [str(number) for number in range(COUNT)]
    prompts = [f"prompt {number}\n" for number in numbers]
    texts_a, texts_b = ([f"{by} {number}\n" for number in numbers] for by in (by_a, "by b"))
    return make_pairs(numbers, prompts, texts_a, texts_b, seed)


def count_votes(shown: list[Pair], votes: dict[str, str]) -> SignTest:
    return outcome_of(Comparison(a="a run", b="human", pairs=shown), votes).test


def test_the_order_is_drawn_by_the_seed_and_each_writer_is_first_half_of_the_time() -> None:
    assert pairs(1) == pairs(1)
    orders = {tuple(pair.a_first for pair in pairs(seed)) for seed in range(5)}
    assert len(orders) > 1
    assert {sum(order) for order in orders} == {COUNT // 2}
    for pair in pairs():
        by_a, by_b = (pair.first, pair.second) if pair.a_first else (pair.second, pair.first)
        assert (by_a, by_b) == (f"by a {pair.id}", f"by b {pair.id}")


def test_only_words_can_tell_the_writers_apart() -> None:
    (pair,) = make_pairs(["1", "2"], ["p\n", "p\n"], ["  a\x1b\n\tb\n\n", "same"], ["c", " same\n"], 1)
    assert {pair.first, pair.second} == {"a\nb", "c"}


def test_votes_are_counted_for_the_writers(tmp_path: Path) -> None:
    file = tmp_path / "votes.jsonl"
    shown = pairs()
    for pair in shown[:3]:
        add_vote(file, pair, "1")
    add_vote(file, shown[3], "=")
    add_vote(file, shown[0], "2")  # the last vote on a pair counts
    result = count_votes(shown, read_votes(file))
    by_a = [not shown[0].a_first, shown[1].a_first, shown[2].a_first]
    assert (result.wins_a, result.wins_b, result.ties) == (sum(by_a), 3 - sum(by_a), 1)
    swapped = count_votes(
        shown, {key: {"1": "2", "2": "1"}.get(it, it) for key, it in read_votes(file).items()}
    )
    assert (swapped.wins_a, swapped.wins_b) == (result.wins_b, result.wins_a)


def test_votes_on_other_texts_do_not_count(tmp_path: Path) -> None:
    file = tmp_path / "votes.jsonl"
    for pair in pairs():
        add_vote(file, pair, "1")
    assert count_votes(pairs(by_a="another run"), read_votes(file)).decided == 0


@pytest.mark.parametrize("line", ["no JSON", '{"pair": "x"}', '{"pair": "x", "choice": "3"}', "[]"])
def test_a_line_that_is_no_vote_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "votes.jsonl"
    file.write_text('{"pair": "x", "choice": "1"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="not a vote") as refusal:
        read_votes(file)
    assert refusal.value.line == 2


# --- the page -------------------------------------------------------------------------------------


def script_of(page: Path) -> str:
    (script,) = re.findall(r"<script>(.*?)</script>", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return str(script)


def test_a_page_holds_the_texts_and_nothing_about_their_writers(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    write_page(page, pairs(by_a="</script><b>&"))
    (data,) = re.findall(r"const pairs = (.*);\n", script_of(page))
    shown = json.loads(data)
    assert [item["first"] for item in shown] == [pair.first for pair in pairs(by_a="</script><b>&")]
    assert all(set(item) == {"pair", "prompt", "first", "second"} for item in shown)
    source = page.read_text(encoding="utf-8")
    assert "a_first" not in source
    assert not re.search(r"(src|href)=|https?:|@import|url\(", source)  # it needs nothing else


# A page without a browser: elements that remember what is set on them.
DOCUMENT = """
const elements = {};
const make = (name) => elements[name] ??= {
  dataset: { choice: name }, on: {}, classList: { toggle() {} }, replaceChildren() {}, setAttribute() {},
  addEventListener(event, run) { this.on[event] = run; } };
const keys = [];
globalThis.document = {
  getElementById: make, querySelectorAll: () => ["1", "2", "="].map(make),
  createElement: () => ({ click() { globalThis.saved = this.download; } }),
  addEventListener: (event, run) => keys.push(run) };
const kept = {};
globalThis.localStorage = {
  getItem: (key) => kept[key] ?? null, setItem: (key, value) => { kept[key] = value; } };
const press = (...pressed) => pressed.forEach((key) => keys.at(-1)({ key }));
"""
VISIT = """
press("1", "x", "2", "ArrowLeft", "=");
const before = elements.place.textContent;
{ const storage = Object.values(kept)[0]; var again = Object.keys(JSON.parse(storage)).length; }
press("1", "1", "1", "1", "1", "1");
make("2").on.click();
console.log(JSON.stringify({ before, again, place: elements.place.textContent, lines: votesAsLines() }));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node runs the page's script")
def test_keys_and_buttons_vote_and_the_file_is_read_back(tmp_path: Path) -> None:
    page, file = tmp_path / "page.html", tmp_path / "votes.jsonl"
    write_page(page, pairs())
    script = DOCUMENT + script_of(page).replace('"use strict";', "") + VISIT
    done = subprocess.run(["node", "-e", script], capture_output=True, text=True, timeout=30, check=True)
    found = json.loads(done.stdout)
    assert (found["before"], found["again"]) == ("Pair 3 of 8, votes: 2", 2)
    assert found["place"] == "All 8 votes are there: save them."
    file.write_text(found["lines"], encoding="utf-8")
    choices = [read_votes(file)[pair.key] for pair in pairs()]
    assert choices == ["1", "=", *["1"] * 5, "2"]
