"""The ranking of scored runs: order, seeds on one line, letters, settings that differ."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from explora.core.base.tokenizer import Tokenizer, load_tokenizer
from explora.core.config.precedence import resolve
from explora.core.ranking.candidates import Candidate
from explora.core.ranking.comparison import compare_entries
from explora.core.ranking.scoring import Entry
from explora.core.ranking.standing import Line, rank, to_json
from explora.core.runs.evaluate import Rows
from explora.core.tasks.contract import Evaluation, Split
from explora.core.tasks.metrics import Score, accuracy, perplexity

DRAWS = np.random.default_rng(0).random(400)


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> Tokenizer:
    return load_tokenizer(tiny_base)


def right_on(share: float) -> Score:
    """An accuracy; the rows that are right for a share are right for a larger one."""
    return accuracy((share > DRAWS).astype(int).tolist(), [1] * 400)


def entry(tokenizer: Tokenizer, name: str, score: Score, **settings: Any) -> Entry:
    metric = "accuracy" if score.higher_is_better else "perplexity"
    run, _ = resolve("sentiment", settings)
    return Entry(
        task="sentiment",
        candidate=Candidate(
            name=name, method=run.method, run=run, result={"seconds": 60 * run.training.seed}
        ),
        label=name,
        metric=metric,
        evaluation=Evaluation.of({metric: score}, {}, examples=len(score.order)),
        rows=Rows(split="dev", data="samples", found=Split(examples=[])),
        tokenizer=tokenizer,
    )


def test_the_best_comes_first_and_letters_join_what_is_not_distinguishable(tokenizer: Tokenizer) -> None:
    shares = {"poor": 0.5, "good": 0.8, "nearly": 0.795}
    found = rank(
        [entry(tokenizer, name, right_on(s), rank=n + 1) for n, (name, s) in enumerate(shares.items())]
    )
    assert [(line.rank, line.name, line.letters) for line in found.lines] == [
        (1, "good", "a"),
        (2, "nearly", "a"),
        (3, "poor", "b"),
    ]
    assert all(pair.adjusted >= pair.difference.p for pair in found.pairs)


def test_a_perplexity_ranks_from_the_lowest(tokenizer: Tokenizer) -> None:
    texts = {n: perplexity(np.full(9, 3.0 + n) + DRAWS[:9], np.ones(9)) for n in (2, 0, 1)}
    found = rank([entry(tokenizer, str(n), score, rank=n + 1) for n, score in texts.items()])
    assert [line.name for line in found.lines] == ["0", "1", "2"]


def test_runs_that_differ_in_their_seed_alone_share_a_line(tokenizer: Tokenizer) -> None:
    shares = {1: 0.70, 2: 0.80, 3: 0.78}
    seeds = [entry(tokenizer, f"s{seed}", right_on(share), seed=seed) for seed, share in shares.items()]
    found = rank([*seeds, entry(tokenizer, "other", right_on(0.6), seed=1, learning_rate=0.5)])
    line, other = found.lines
    assert (line.name, line.seeds, other.seeds) == ("s1 +2", [1, 2, 3], [1])
    scores = [each.score.value for each in seeds]
    assert line.score == pytest.approx(np.mean(scores))
    assert line.seed_deviation == pytest.approx(np.std(scores, ddof=1))
    assert line.mean_result("seconds") == 120
    assert line.mean_result("tokens") is None
    assert line.settings["learning-rate"] != other.settings["learning-rate"] == "0.5"
    assert line.settings.keys() == {"learning-rate"}


def test_seeds_widen_the_interval_of_their_line(tokenizer: Tokenizer) -> None:
    """The twin that takes the mean for one run's score has the interval of the rows alone."""

    def line_of(shares: tuple[float, ...]) -> Line:
        return rank([entry(tokenizer, str(n), right_on(s), seed=n) for n, s in enumerate(shares)]).lines[0]

    apart, alike = line_of((0.7, 0.8, 0.9)), line_of((0.8, 0.8, 0.8))
    assert apart.interval[1] - apart.interval[0] > 2 * (alike.interval[1] - alike.interval[0])


def test_a_copy_of_a_run_is_no_further_seed(tokenizer: Tokenizer) -> None:
    run = entry(tokenizer, "run", right_on(0.7), seed=1)
    copy = dataclasses.replace(run, candidate=dataclasses.replace(run.candidate, name="copy"))
    found = rank([run, copy])
    assert [line.name for line in found.lines] == ["run", "copy"]
    assert [line.letters for line in found.lines] == ["a", "a"]


def test_the_json_of_a_ranking_names_lines_by_rank(tokenizer: Tokenizer) -> None:
    found = rank(
        [
            entry(tokenizer, name, right_on(s), rank=n + 1)
            for n, (name, s) in enumerate([("a", 0.5), ("b", 0.9)])
        ]
    )
    value = json.loads(json.dumps(to_json(found)))
    assert [line["runs"] for line in value["ranking"]] == [["b"], ["a"]]
    (pair,) = value["pairs"]
    assert (pair["first"], pair["second"]) == (1, 2)
    assert pair["interval"][0] < pair["difference"] < pair["interval"][1]


def test_wins_and_losses_are_rows(tokenizer: Tokenizer) -> None:
    labels = [1, 1, 1, 0]
    one = entry(tokenizer, "one", accuracy([1, 1, 0, 0], labels))
    two = entry(tokenizer, "two", accuracy([0, 0, 1, 0], labels))
    found = compare_entries(one, two)
    assert (found.wins, found.losses) == (2, 1)
    assert found.differences["accuracy"].value == pytest.approx(0.25)
    quiet = entry(tokenizer, "quiet", perplexity([1.0, 2.0], [1, 1]))
    loud = entry(tokenizer, "loud", perplexity([1.5, 2.0], [1, 1]))
    lower = compare_entries(quiet, loud)
    assert (lower.wins, lower.losses) == (1, 0)
