"""Metrics against values worked out by hand, against sacrebleu, and the interval against simulation."""

import math
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF

from explora.core.tasks.metrics import (
    Score,
    accuracy,
    bleu,
    chrf,
    macro_f1,
    perplexity,
    positive_f1,
)

OfLines = Callable[[list[str], list[str]], Score]

ANSWERS = [0, 0, 1, 1, 2, 1]
LABELS = [0, 1, 1, 1, 0, 0]
# class 0: hit 1, answered 2, labelled 3 -> 2/5; class 1: hit 2, 3, 3 -> 4/6; class 2: hit 0, 1, 0 -> 0

LINES = [
    "the cat sat on the mat .",
    "Shall I compare thee to a summer's day?",
    "",
    "no",
    "Rough winds do shake",
]
TRUTH = [
    "the cat is on the mat .",
    "Shall I compare you to a day?",
    "something",
    "yes",
    "Rough winds do shake",
]


def test_accuracy_is_the_share_of_hits() -> None:
    assert accuracy(ANSWERS, LABELS).value == 3 / 6


def test_macro_f1_is_the_mean_over_the_classes_that_occur() -> None:
    assert macro_f1(ANSWERS, LABELS).value == pytest.approx((2 / 5 + 4 / 6 + 0) / 3)
    assert macro_f1([0, 7], [0, 7]).value == 1.0
    assert macro_f1([0, 0], [0, 0]).value == 1.0  # one class only: no other class to average in


def test_positive_f1_looks_at_one_class() -> None:
    assert positive_f1(ANSWERS, LABELS).value == pytest.approx(4 / 6)
    assert positive_f1(ANSWERS, LABELS, positive=0).value == pytest.approx(2 / 5)
    assert positive_f1([0, 0], [0, 1]).value == 0.0  # never answered
    assert positive_f1([0, 0], [0, 0]).value == 0.0  # neither answered nor labelled


def test_perplexity_weighs_texts_by_their_tokens() -> None:
    nll = [10 * math.log(2), 30 * math.log(8)]
    assert perplexity(nll, [10, 30]).value == pytest.approx(2**0.25 * 8**0.75)
    assert perplexity([1e6], [1]).value == math.inf


@pytest.mark.parametrize(("ours", "theirs"), [(bleu, BLEU), (chrf, CHRF)])
def test_bleu_and_chrf_are_sacrebleus_corpus_scores(ours: OfLines, theirs: type) -> None:
    assert ours(LINES, TRUTH).value == theirs().corpus_score(LINES, [TRUTH]).score
    assert ours(TRUTH, TRUTH).value == pytest.approx(100)
    assert ours([""], ["a"]).value == 0
    swapped = ours(LINES, TRUTH[::-1]).value
    assert swapped != pytest.approx(ours(LINES, TRUTH).value)  # the pairing matters


@pytest.mark.parametrize(("ours", "theirs"), [(bleu, BLEU), (chrf, CHRF)])
def test_a_resample_scores_as_the_resampled_corpus(ours: OfLines, theirs: type) -> None:
    """The bootstrap adds counts up; that must equal scoring the drawn lines themselves."""
    score = ours(LINES, TRUTH)
    drawn = [0, 0, 1, 4, 4]
    times = np.bincount(drawn, minlength=len(LINES))
    expected = theirs().corpus_score([LINES[i] for i in drawn], [[TRUTH[i] for i in drawn]]).score
    assert score.formula(times @ score.counts) == pytest.approx(expected)


def test_an_f1_resample_scores_as_the_resampled_answers() -> None:
    generator = np.random.default_rng(0)
    answers, labels = generator.integers(4, size=50), generator.integers(4, size=50)
    for metric in (accuracy, macro_f1, positive_f1):
        score = metric(answers.tolist(), labels.tolist())
        cells, cell_of = np.unique(np.stack([answers, labels], 1), axis=0, return_inverse=True)
        drawn = generator.integers(50, size=50)
        times = np.bincount(cell_of.ravel()[drawn], minlength=len(cells))
        expected = metric(answers[drawn].tolist(), labels[drawn].tolist()).value
        assert score.formula(times @ score.counts) == pytest.approx(expected)


def test_nothing_to_score_is_an_error() -> None:
    for empty in (lambda: accuracy([], []), lambda: perplexity([], []), lambda: chrf([], [])):
        with pytest.raises(ValueError, match=r"at least one example|argument 0"):
            empty()
    with pytest.raises(ValueError, match="zip"):
        accuracy([1], [1, 2])
    with pytest.raises(ValueError, match="references"):
        chrf(["a"], ["a", "b"])


def test_an_interval_is_deterministic_and_depends_on_the_seed() -> None:
    score = perplexity(np.random.default_rng(1).gamma(5, 10, size=30), np.full(30, 20))
    assert score.interval(seed=1) == score.interval(seed=1)
    assert score.interval(seed=1) != score.interval(seed=2)


def test_examples_that_do_not_differ_give_no_interval() -> None:
    all_right = positive_f1([0, 1] * 4, [0, 1] * 4)  # a few resamples have no positive row, and F1 is 0
    same = (
        perplexity([0.1] * 7, [3] * 7),
        macro_f1([0, 1] * 4, [0, 1] * 4),
        chrf(["ab"], ["abc"]),
        all_right,
    )
    for score in same:
        assert all(math.isnan(end) for end in score.interval())
    assert not any(math.isnan(end) for end in perplexity([0.1] * 7 + [0.2], [3] * 8).interval())


def test_examples_counted_together_resample_as_examples_counted_apart() -> None:
    together = positive_f1([1] * 30 + [0] * 70, [1] * 100)
    apart = Score(together.by_example, np.arange(100), together.formula)
    assert together.value == apart.value
    assert together.interval(resamples=1000) == pytest.approx(apart.interval(resamples=1000), abs=0.02)


def test_an_interval_holds_its_value_and_widens_with_its_level() -> None:
    score = macro_f1(ANSWERS * 20, LABELS * 20)
    low, high = score.interval()
    wider_low, wider_high = score.interval(level=0.99)
    assert wider_low < low < score.value < high < wider_high


@pytest.mark.parametrize(
    ("hits", "examples", "low", "high"),
    [  # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (6, 6, 0.6097, 1.0),  # statsmodels: proportion_confint(6, 6, method="wilson")
    ],
)
def test_the_interval_of_an_accuracy_is_wilsons(hits: int, examples: int, low: float, high: float) -> None:
    score = accuracy([1] * hits + [0] * (examples - hits), [1] * examples)
    assert score.interval() == pytest.approx((low, high), abs=5e-5)
    bootstrap = replace(score, formula=lambda sums: float(sums[0] / sums[1]))  # the planted bug
    assert bootstrap.interval() != pytest.approx((low, high), abs=5e-5)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        nll = generator.gamma(25, 0.16, size=100) * 50  # mean 4 nats a token
        low, high = perplexity(nll, np.full(100, 50)).interval(resamples=300)
        covered += low <= math.exp(4) <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_an_interval_that_forgets_to_resample_would_not_cover() -> None:
    """The twin of the coverage test: an interval of half the width fails its bounds."""
    generator = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        nll = generator.gamma(25, 0.16, size=100) * 50
        score = perplexity(nll, np.full(100, 50))
        low, high = (score.value + (end - score.value) / 2 for end in score.interval(resamples=300))
        covered += low <= math.exp(4) <= high
    assert covered / 200 < 0.90


def quora_sized() -> Score:
    generator = np.random.default_rng(3)
    return macro_f1(generator.integers(2, size=40_000).tolist(), generator.integers(2, size=40_000).tolist())


def sonnets() -> Score:
    generator = np.random.default_rng(4)
    poems = [" ".join(generator.choice(["love", "thee", "time,", "day"], size=110)) for _ in range(24)]
    return chrf(poems[:12], poems[12:])


def paragraphs() -> Score:
    generator = np.random.default_rng(5)
    return perplexity(generator.gamma(5, 10, size=20_000), np.full(20_000, 20))


@pytest.mark.parametrize("score", [quora_sized, sonnets, paragraphs])
def test_a_thousand_resamples_take_less_than_a_second(score: Callable[[], Score]) -> None:
    ready = score()
    start = time.process_time()
    ready.interval(resamples=1000)
    assert time.process_time() - start < 1
