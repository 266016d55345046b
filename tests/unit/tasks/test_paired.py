"""Paired differences: exact cases, their coverage by simulation, and twins that ignore pairs or seeds."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from explora.core.tasks.metrics import Score, accuracy, bleu, chrf, macro_f1, perplexity, positive_f1
from explora.core.tasks.paired import PairedScores, compare, holm

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))

import coverage

NOISE = np.random.default_rng(0)
LABELS = NOISE.integers(2, size=200).tolist()


def answers(right: float, seed: int = 0) -> list[int]:
    """Answers of which about the share `right` is right; those of a larger share are right on more rows."""
    generator = np.random.default_rng(seed)
    draws = generator.random(200)
    return [label if draw < right else 1 - label for label, draw in zip(LABELS, draws, strict=True)]


GOOD, POOR = accuracy(answers(0.8), LABELS), accuracy(answers(0.7), LABELS)


# --- one run against one --------------------------------------------------------------------------


def test_the_difference_of_two_accuracies_is_the_paired_t_interval() -> None:
    """Against the formula for means: the bootstrap's variance is that of the differences by row."""
    found = compare([GOOD], [POOR], resamples=4000)
    by_row = GOOD.by_example[:, 0] - POOR.by_example[:, 0]
    error = by_row.std(ddof=1) / math.sqrt(200)
    assert found.value == pytest.approx(by_row.mean())
    assert found.low == pytest.approx(by_row.mean() - 1.972 * error, abs=0.003)  # t of 199 degrees
    assert found.high == pytest.approx(by_row.mean() + 1.972 * error, abs=0.003)
    assert found.p < 0.001


def test_the_same_answers_do_not_differ() -> None:
    assert vars(compare([GOOD], [GOOD])) == {"value": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}


def test_the_difference_turns_round_with_the_systems() -> None:
    there, back = compare([GOOD], [POOR]), compare([POOR], [GOOD])
    assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low))
    assert back.p == pytest.approx(there.p)


@pytest.mark.parametrize(
    "one",
    [accuracy([1], [1]), perplexity([3.0], [2]), perplexity([1e9, 1.0, 2.0], [1, 1, 1])],
    ids=["one right", "one text", "infinite"],
)
def test_where_nothing_can_be_estimated_nothing_is_claimed(one: Score) -> None:
    other = perplexity([2.0, 1.0, 3.0], [1, 1, 1]) if len(one.order) == 3 else accuracy([0], [1])
    found = compare([one], [other])
    assert (found.low, found.high, found.p) == (-math.inf, math.inf, 1.0)


def test_an_infinite_perplexity_leaves_the_other_runs_alone() -> None:
    texts = [perplexity(NOISE.gamma(9, 1, size=20), np.full(20, 3)) for _ in range(2)]
    scores = PairedScores([*texts, perplexity(np.full(20, 1e9), np.full(20, 3))])
    assert scores.difference([0], [1, 2]).p == scores.mean([0, 2]).p == 1.0
    alone = compare([texts[0]], [texts[1]])
    assert vars(scores.difference([0], [1])) == pytest.approx(vars(alone))


def test_other_rows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"the same examples, but their numbers are \[1, 200\]"):
        compare([GOOD], [accuracy([1], [1])])


@pytest.mark.parametrize("metric", [macro_f1, positive_f1])
def test_systems_that_answer_different_classes_are_paired(metric: Callable[..., Score]) -> None:
    one, other = metric(answers(0.9), LABELS), metric([0] * 200, LABELS)
    found = compare([one], [other])
    assert found.value == pytest.approx(one.value - other.value)
    assert 0 < found.low < found.value < found.high < 1


@pytest.mark.parametrize("metric", [bleu, chrf])
def test_generated_texts_are_compared(metric: Callable[..., Score]) -> None:
    references = [f"the {n} cat sat on the {n} mat and slept until noon" for n in range(20)]
    near = [text.replace("noon", "night") if n % 2 else text for n, text in enumerate(references)]
    far = [text.replace("cat sat", "dogs ran") for text in references]
    found = compare([metric(near, references)], [metric(far, references)], resamples=200)
    assert found.low > 0
    assert found.p < 0.001


def test_scores_survive_the_way_through_json() -> None:
    for score in (GOOD, macro_f1(answers(0.7), LABELS), perplexity([1.5, 2.25], [1, 2]), chrf(["a"], ["b"])):
        again = Score.from_json(json.loads(json.dumps(score.to_json())))
        assert again.value == score.value
        assert again.interval(resamples=50) == score.interval(resamples=50)


def test_parts_of_a_text_are_drawn_together() -> None:
    parts = perplexity([1.0, 2.0, 3.0, 4.0], [1, 1, 1, 2])
    texts = parts.grouped([0, 1, 0, 1])
    assert texts.by_example.tolist() == [[4.0, 2.0], [6.0, 3.0]]
    assert texts.value == parts.value


# --- seeds ----------------------------------------------------------------------------------------


def test_seeds_that_agree_on_every_row_add_nothing_to_the_interval() -> None:
    one, three = compare([GOOD], [POOR]), compare([GOOD] * 3, [POOR] * 3)
    assert (three.low, three.high) == pytest.approx((one.low, one.high))


def test_a_single_run_is_compared_with_seeds_as_one_of_as_many() -> None:
    """Three seeds show how much seeds vary; the other side's only run varies as much."""
    seeds = [accuracy(answers(right), LABELS) for right in (0.6, 0.7, 0.8)]
    both, single = compare(seeds, seeds), compare(seeds, [seeds[1]])
    assert single.high - single.low > both.high - both.low


def test_holm_keeps_the_order_and_multiplies_by_what_is_left() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


# --- coverage -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def covered() -> dict[str, float]:
    """How often each method's interval holds the truth: three seeds that differ much."""
    coverage.RESAMPLES = 100
    setting = coverage.Setting(metric="accuracy", examples=200, seeds=3, spread=0.2)
    return coverage.measure(setting, 200)


def test_intervals_hold_the_truth_as_often_as_they_say(covered: dict[str, float]) -> None:
    assert 0.91 <= covered["paired"] <= 0.985


def test_the_twin_that_ignores_seeds_does_not(covered: dict[str, float]) -> None:
    assert covered["seedless"] < 0.8


def test_the_twin_that_ignores_pairs_covers_too_much() -> None:
    setting = coverage.Setting(metric="perplexity", examples=60, seeds=1, spread=0.0)
    covered = coverage.measure(setting, 200)
    assert 0.91 <= covered["paired"] <= 0.985 < covered["unpaired"]
