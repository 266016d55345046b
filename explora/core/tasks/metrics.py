"""Metrics as pure functions, each with its bootstrap interval.

Every metric here is a formula over sums of per-example counts: hits, the two sides of F1, negative log
likelihoods, matched n-grams. A `Score` keeps the counts by example beside the formula, so that resampling
the examples costs a sum and never a second look at the data.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Counts = NDArray[np.int64] | NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """A metric's value with what it takes to resample it.

    `counts` is (U, K), one row for each distinct example; `times` (U,) says how often that example
    occurs; `formula` turns the (K,) sum over all N examples into the metric.
    """

    counts: Counts
    times: NDArray[np.int64]
    formula: Callable[[Counts], float]

    @property
    def value(self) -> float:
        """The metric of all examples."""
        return self.formula(self.times @ self.counts)

    def interval(self, *, level: float = 0.95, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
        """Return the percentile bootstrap interval (Efron 1979) over the examples.

        The same seed gives the same interval; a single example gives its own value twice.
        """
        generator = np.random.default_rng(seed)
        values = sorted(
            self.formula(_resample(self.times, generator) @ self.counts) for _ in range(resamples)
        )
        tail = int(resamples * (1 - level) / 2)
        return values[tail], values[-1 - tail]


def accuracy(answers: Sequence[int], labels: Sequence[int]) -> Score:
    """The fraction of answers that equal their label."""
    cells, times = _confusion_cells(answers, labels)
    right = cells[:, 0] == cells[:, 1]
    return Score(np.stack([right, np.ones_like(right)], axis=1).astype(np.int64), times, _ratio)


def macro_f1(answers: Sequence[int], labels: Sequence[int]) -> Score:
    """The unweighted mean of the F1 of every class that is answered or labelled at least once.

    A class that is only answered or only labelled counts as 0. A resample averages over the classes it holds.
    """
    cells, times = _confusion_cells(answers, labels)
    classes = np.unique(cells)
    answered = cells[:, :1] == classes
    labelled = cells[:, 1:] == classes
    return Score(_f1_counts(answered, labelled), times, _mean_f1)


def positive_f1(answers: Sequence[int], labels: Sequence[int], positive: int = 1) -> Score:
    """F1 of the class `positive` alone; 0 where it is neither answered nor labelled."""
    cells, times = _confusion_cells(answers, labels)
    return Score(_f1_counts(cells[:, :1] == positive, cells[:, 1:] == positive), times, _mean_f1)


def majority(labels: Sequence[int]) -> int:
    """The most frequent label, the smallest of equals: the answer of one who learned nothing."""
    frequency = Counter(labels)
    return min(frequency, key=lambda label: (-frequency[label], label))


def perplexity(nll: ArrayLike, tokens: ArrayLike) -> Score:
    """exp of the mean negative log likelihood per token.

    `nll` (N,) holds each text's summed negative log likelihood in nats, `tokens` (N,) how many tokens it
    sums over. Resampling draws whole texts. Infinite where exp overflows.
    """
    counts = np.stack([np.asarray(nll, np.float64), np.asarray(tokens, np.float64)], axis=1)
    return Score(counts, _once_each(counts), lambda sums: _exp(_ratio(sums)))


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    """Corpus BLEU of one reference each, 0 to 100, with sacrebleu's defaults (13a, exp smoothing)."""
    from sacrebleu.metrics.bleu import BLEU

    # force silences a warning about tokenised input; it does not change the score
    metric = BLEU(force=True)
    counts = _ngram_counts(metric._extract_corpus_statistics, hypotheses, references)
    return Score(
        counts, _once_each(counts), lambda sums: metric._compute_score_from_stats(sums.tolist()).score
    )


def chrf(hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    """Corpus chrF2 of one reference each, 0 to 100, with sacrebleu's defaults, as CS224N scores sonnets."""
    from sacrebleu.metrics.chrf import CHRF

    metric = CHRF()
    counts = _ngram_counts(metric._extract_corpus_statistics, hypotheses, references)
    return Score(
        counts, _once_each(counts), lambda sums: metric._compute_score_from_stats(sums.tolist()).score
    )


def signatures() -> dict[str, str]:
    """Return sacrebleu's signatures of `bleu` and `chrf`, which let others compute the same scores."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    found = {}
    for name, metric in (("bleu", BLEU(force=True)), ("chrf", CHRF())):
        metric.corpus_score(["a"], [["a"]])  # the signature counts the references of the last score
        found[name] = str(metric.get_signature())
    return found


def _confusion_cells(
    answers: Sequence[int], labels: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The distinct (answer, label) pairs (U, 2) and how often each occurs (U,)."""
    pairs = np.array(list(zip(answers, labels, strict=True)), dtype=np.int64)
    _refuse_empty(pairs)
    cells, times = np.unique(pairs, axis=0, return_counts=True)
    return cells, times


def _f1_counts(answered: NDArray[np.bool_], labelled: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(U, C) memberships -> (U, 2C): what was hit, then answered plus labelled (F1 = 2 hit / both)."""
    both = answered.astype(np.int64) + labelled
    return np.concatenate([answered & labelled, both], axis=1, dtype=np.int64)


def _mean_f1(sums: Counts) -> float:
    hit, both = np.split(sums, 2)
    present = both > 0
    return float((2 * hit[present] / both[present]).mean()) if present.any() else 0.0


def _resample(times: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Draw as many examples as there are, with replacement; return how often each distinct one came (U,)."""
    examples = int(times.sum())
    if len(times) == examples:  # all distinct: counting draws is several times as fast as a multinomial
        return np.bincount(generator.integers(examples, size=examples), minlength=examples)
    return generator.multinomial(examples, times / examples)


def _ratio(sums: Counts) -> float:
    return float(sums[0] / sums[1])


def _exp(exponent: float) -> float:
    try:
        return math.exp(exponent)
    except OverflowError:
        return math.inf


def _ngram_counts(
    extract: Callable[[Sequence[str], Sequence[Sequence[str]]], list[list[int]]],
    hypotheses: Sequence[str],
    references: Sequence[str],
) -> NDArray[np.int64]:
    """Sacrebleu's sufficient statistics (N, K): adding them up and scoring is its corpus score."""
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references")
    _refuse_empty(hypotheses)
    return np.array(extract(hypotheses, [references]), dtype=np.int64)


def _once_each(counts: Counts) -> NDArray[np.int64]:
    _refuse_empty(counts)
    return np.ones(len(counts), dtype=np.int64)


def _refuse_empty(examples: Sequence[object] | Counts) -> None:
    if len(examples) == 0:
        raise ValueError("a score of no examples is not defined")
