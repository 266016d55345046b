"""`explora eval --blind` and `--decoding`: votes are asked, kept and read back; settings are compared."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from explora.commands._voting import layout
from explora.core.judging.pairs import Pair

Stdin = Callable[[str], None]


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Stdin:
    return lambda text: monkeypatch.setattr(sys, "stdin", io.StringIO(text))


@pytest.fixture
def blind(explora, tiny_base: Path, tmp_path: Path):
    """Compare the base with the poets, on three poems of six lines."""
    poems = "\n\n".join("\n".join(f"{word} {n}" for n in range(6)) for word in ("lamp", "gale", "wave"))
    (tmp_path / "poems.txt").write_text(poems + "\n", encoding="utf-8")

    def run(*arguments: str):
        return explora(
            "eval", "sonnet", str(tiny_base), "--data", "poems.txt", "--against", "human", *arguments
        )

    return run


VOTES = "runs/base-against-human.votes.jsonl"


def lines_of(err: str, start: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith(start)]


def test_votes_are_asked_kept_and_continued(blind, stdin: Stdin, tiny_base: Path, check_schema) -> None:
    votes = tiny_base.parent / "base-against-human.votes.jsonl"
    stdin("1\nx\nq\n")
    done = blind("--blind")
    assert (done.code, done.out) == (0, "")
    assert "Which text is better? 1: the first" in done.err
    assert "'x' is not one of 1, 2, =, q" in done.err
    assert f"1 of 3 votes in {votes}; the same command continues" in done.err
    assert "lamp 0\nlamp 1\nlamp 2\n" in done.err
    stdin("2\n=\n")
    done = blind("--blind")
    assert done.code == 0
    assert "pair 1 of 3" not in done.err
    assert "no difference: 1, left out of the test" in done.out
    (value,) = blind("--votes", str(votes), "--json").objects
    check_schema("eval-blind", value)
    assert (value["votes"], value["ties"], value["wins_a"] + value["wins_b"]) == (3, 1, 2)
    choices = {item["id"]: item["preferred"] for item in value["poems"]}
    firsts = {item["id"]: item["first"] for item in value["poems"]}
    first, second, third = firsts
    assert choices[first] == firsts[first]
    assert choices[second] == {"a": "b", "b": "a"}[firsts[second]]
    assert choices[third] == "tie"
    votes.unlink()


def test_before_the_last_vote_nothing_tells_the_writers_apart(blind, stdin: Stdin, tiny_base: Path) -> None:
    stdin("1\n1\n")
    done = blind("--blind")
    assert done.out == ""
    votes = tiny_base.parent / "base-against-human.votes.jsonl"
    assert set(json.loads(votes.read_text(encoding="utf-8").splitlines()[0])) == {"pair", "choice"}
    votes.unlink()


def test_votes_of_a_page_are_read_back(blind, tmp_path: Path) -> None:
    done = blind("--page", "page.html")
    assert (done.code, done.out) == (0, "")
    keys = re.findall(r'"pair": "(\w{16})"', (tmp_path / "page.html").read_text(encoding="utf-8"))
    lines = [json.dumps({"pair": key, "choice": "1"}) for key in keys]
    (tmp_path / "votes.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (value,) = blind("--votes", "votes.jsonl", "--json").objects
    assert (value["votes"], value["wins_a"] + value["wins_b"]) == (3, 3)
    other_seed = blind("--votes", "votes.jsonl", "--seed", "5")
    assert (other_seed.code, other_seed.out) == (1, "")
    assert "votes.jsonl: no vote is about these texts" in other_seed.err


PAIR = Pair(id="1", prompt="a prompt", first="one\ntwo", second="three " * 20, a_first=True)


def test_a_wide_terminal_shows_both_texts_side_by_side() -> None:
    wide, narrow = (layout(PAIR, "pair 1 of 1", width).splitlines() for width in (120, 60))
    assert any(line.startswith("one ") and "three" in line for line in wide)
    assert all(len(line) <= 120 for line in wide)
    assert "one" in narrow
    assert all(len(line) <= 60 for line in narrow)


def test_settings_of_decoding_are_compared(
    explora, tiny_base: Path, tmp_path: Path, check_schema: Callable[..., None]
) -> None:
    (tmp_path / "poems.txt").write_text("a\nb\nc\nd e f\ng\n", encoding="utf-8")
    arguments = ("eval", "sonnet", str(tiny_base), "--data", "poems.txt", "--decoding", "--num", "1")
    lists = ("--temperature", "0.5", "--top-p", "0.9", "--repetition-penalty", "1.1")
    rows = explora(*arguments, *lists, "--json").objects
    for row in rows:
        check_schema("eval-decoding", row)
    settings = [(row["sampling"]["greedy"], row["sampling"]["temperature"]) for row in rows]
    assert settings == [(True, 1.0), (False, 0.5)]
    assert {"chrf", "bleu", "repeated", "lines"} <= rows[0]["scores"].keys()
    header, *table = explora(*arguments, *lists).out.splitlines()
    assert header.startswith("temperature, top-p, penalty")
    assert [line.split("  ")[0] for line in table] == ["greedy, 1.1", "0.5, 0.9, 1.1"]
    assert [line.split()[-1] for line in table] == [f"{row['scores']['couplet']:.3g}" for row in rows]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ("sonnet --blind", 2, "--blind compares two writers"),
        ("sonnet --against human --votes x", 1, "x: no such votes file"),
        ("sonnet --against human --page .", 2, "--page: . is a folder"),
        ("sonnet --against human --page votes.jsonl", 2, "votes.jsonl exists and is not an HTML page"),
        ("sonnet --against human --page nodir/a.html", 2, "there is no folder nodir"),
        ("sonnet --votes x", 2, "--votes compares two writers"),
        ("sonnet human --against x --blind", 2, "human is not a run"),
        ("sonnet --against human --page a.html --votes b", 2, "--page writes a page"),
        ("sonnet --temperature 1", 2, "--temperature is for the comparison of decoding settings"),
        ("sonnet --decoding --temperature hot", 2, "--temperature: 'hot' is not a list of numbers"),
        ("sonnet --decoding --temperature 0", 2, "temperature must be a positive number"),
        ("sonnet --decoding --predictions x", 2, "--decoding compares settings of one run"),
        ("text --decoding", 2, "text has no poems to continue"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(
    explora, tiny_base: Path, tmp_path: Path, arguments: str, code: int, told: str
) -> None:
    (tmp_path / "votes.jsonl").touch()
    done = explora("eval", *arguments.split(), "--model", str(tiny_base))
    assert (done.code, done.out) == (code, "")
    assert told in done.err
    assert "Traceback" not in done.err


def test_documents_of_a_text_file_are_compared_too(explora, tiny_base: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("one\ntwo\nthree\nfour\n\na\nb\nc\nd\n", encoding="utf-8")
    arguments = ("eval", "text", str(tiny_base), "--against", "human", "--page", "page.html")
    done = explora(*arguments, "--data", "notes.txt")
    assert (done.code, done.out) == (0, "")
    assert "2 pairs in random order" in done.err
    assert '"prompt": "one\\ntwo\\nthree"' in (tmp_path / "page.html").read_text(encoding="utf-8")
    samples = explora(*arguments)
    assert samples.code == 2
    assert "the splits of text have no texts to continue" in samples.err


def test_equal_continuations_are_no_comparison(explora, tiny_base: Path) -> None:
    done = explora("eval", "sonnet", str(tiny_base), "--against", str(tiny_base), "--page", "page.html")
    assert (done.code, done.out) == (1, "")
    assert "all continuations are equal" in done.err
