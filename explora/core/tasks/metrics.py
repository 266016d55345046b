"""Metrics as pure functions, each with its interval.

Every metric here is a formula over sums of per-example counts: hits, the two sides of F1, negative log
likelihoods, matched n-grams. A `Score` keeps the counts of each example beside the formula. Resampling the
examples then costs one sum, and the data is not read again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

FEW_EXAMPLES = 100  # with fewer, the interval of an accuracy near 0.5 is at best plus or minus 0.1
Counts = NDArray[np.int64] | NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """A metric's value with the counts that are needed to resample it.

    `counts` (U, K) has one row per distinct example. `order` (N,) gives the row in `counts` of each example,
    so that two scores of the same examples can be paired. `formula` turns the (K,) sum over all N examples
    into the metric.
    """

    counts: Counts
    order: NDArray[np.int64]
    formula: Callable[[Counts], float]
    higher_is_better: bool = True

    @property
    def value(self) -> float:
        """The metric over all examples."""
        return self.formula(self.sums)

    @property
    def sums(self) -> Counts:
        """Sum of the counts over all examples, (K,)."""
        return self.times @ self.counts

    @property
    def times(self) -> NDArray[np.int64]:
        """Number of occurrences of each distinct example, (U,)."""
        return np.bincount(self.order, minlength=len(self.counts))

    @property
    def by_example(self) -> Counts:
        """Counts of each example, (N, K), in the order of the examples."""
        return self.counts[self.order]

    def grouped(self, groups: Sequence[int]) -> Score:
        """Return the score with groups of these examples as its examples, such as all parts of one text.

        `groups` (N,) holds the group of each example, from 0. Resampling then draws whole groups.
        """
        members = np.asarray(groups) == np.arange(max(groups) + 1)[:, None]
        sums = members.astype(self.counts.dtype) @ self.by_example
        return replace(self, counts=sums, order=np.arange(len(sums)))

    def to_json(self) -> dict[str, Any]:
        """Convert to plain lists, with the formula by its name in `FORMULAS`."""
        return {
            "formula": self.formula.__name__,
            "counts": self.counts.tolist(),
            "order": self.order.tolist(),
            "higher_is_better": self.higher_is_better,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Score:
        """Rebuild the score that `to_json` wrote."""
        counts, order = np.array(value["counts"]), np.array(value["order"], dtype=np.int64)
        return cls(counts, order, FORMULAS[value["formula"]], value["higher_is_better"])

    def interval(self, *, level: float = 0.95, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
        """Return Wilson's interval for a share, else the percentile bootstrap interval (Efron 1979).

        The bootstrap is over the examples. The same seed gives the same interval. If its ends are equal, as
        with one example or only right answers, resampling shows no spread: both ends are NaN.
        """
        if self.formula is share:
            hits, examples = self.sums
            return wilson_interval(int(hits), int(examples), level)
        generator = np.random.default_rng(seed)
        times = self.times
        values = sorted(self.formula(_resample(times, generator) @ self.counts) for _ in range(resamples))
        tail = int(resamples * (1 - level) / 2)
        low, high = values[tail], values[-1 - tail]
        return (math.nan, math.nan) if math.isclose(low, high, rel_tol=1e-9) else (low, high)


def wilson_interval(hits: int, examples: int, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval (1927, "Probable inference") of the share `hits` / `examples`.

    It contains every share p whose distance from hits / examples is at most z standard errors, sqrt(p (1 - p)
    / examples).
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    center = (hits + z**2 / 2) / (examples + z**2)
    half = z / (examples + z**2) * math.sqrt(hits * (examples - hits) / examples + z**2 / 4)
    return max(0.0, center - half), min(1.0, center + half)


def accuracy(answers: Sequence[int], labels: Sequence[int]) -> Score:
    """Return the share of the answers that equal their label."""
    cells, order = _confusion_cells(answers, labels)
    right = cells[:, 0] == cells[:, 1]
    return Score(np.stack([right, np.ones_like(right)], axis=1).astype(np.int64), order, share)


def macro_f1(answers: Sequence[int], labels: Sequence[int]) -> Score:
    """Return the unweighted mean of the F1 of every class that occurs among answers or labels.

    A class that occurs in only one of the two counts as 0. A resample averages over the classes in it.
    """
    cells, order = _confusion_cells(answers, labels)
    classes = np.unique(cells)
    answered = cells[:, :1] == classes
    labelled = cells[:, 1:] == classes
    return Score(_f1_counts(answered, labelled), order, mean_f1)


def positive_f1(answers: Sequence[int], labels: Sequence[int], positive: int = 1) -> Score:
    """Return the F1 of the class `positive`; 0 if neither an answer nor a label has it."""
    cells, order = _confusion_cells(answers, labels)
    return Score(_f1_counts(cells[:, :1] == positive, cells[:, 1:] == positive), order, mean_f1)


def perplexity(nll: ArrayLike, tokens: ArrayLike) -> Score:
    """Return exp of the mean negative log likelihood per token; infinite if exp overflows.

    `nll` (N,) holds the summed negative log likelihood of each text in nats, and `tokens` (N,) its number of
    predicted tokens. Resampling draws whole texts.
    """
    counts = np.stack([np.asarray(nll, np.float64), np.asarray(tokens, np.float64)], axis=1)
    return Score(counts, _one_row_each(counts), exp_ratio, higher_is_better=False)


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    """Return corpus BLEU with one reference each, 0 to 100, and sacrebleu's defaults (13a, exp smoothing)."""
    counts = _ngram_counts(_bleu()._extract_corpus_statistics, hypotheses, references)
    return Score(counts, _one_row_each(counts), bleu_of_counts)


def chrf(hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    """Return corpus chrF2 with one reference each, 0 to 100, with sacrebleu's defaults, as in CS224N."""
    counts = _ngram_counts(_chrf()._extract_corpus_statistics, hypotheses, references)
    return Score(counts, _one_row_each(counts), chrf_of_counts)


def signatures() -> dict[str, str]:
    """Return sacrebleu's signatures of `bleu` and `chrf`, so that others can compute the same scores."""
    found = {}
    for name, metric in (("bleu", _bleu()), ("chrf", _chrf())):
        metric.corpus_score(["a"], [["a"]])  # the signature contains the number of references
        found[name] = str(metric.get_signature())
    return found


def _confusion_cells(
    answers: Sequence[int], labels: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct (answer, label) pairs (U, 2), and the index of each example's pair (N,)."""
    pairs = np.array(list(zip(answers, labels, strict=True)), dtype=np.int64)
    _refuse_empty(pairs)
    cells, order = np.unique(pairs, axis=0, return_inverse=True)
    return cells, order.ravel()


def _f1_counts(answered: NDArray[np.bool_], labelled: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return hits, then answers plus labels, (U, 2C), from memberships (U, C): F1 = 2 hits / both."""
    both = answered.astype(np.int64) + labelled
    return np.concatenate([answered & labelled, both], axis=1, dtype=np.int64)


def _resample(times: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Draw as many examples as there are, with replacement; return the count of each distinct one (U,)."""
    examples = int(times.sum())
    if len(times) == examples:  # all distinct: bincount is several times as fast as a multinomial
        return np.bincount(generator.integers(examples, size=examples), minlength=examples)
    return generator.multinomial(examples, times / examples)


def _ngram_counts(
    extract: Callable[[Sequence[str], Sequence[Sequence[str]]], list[list[int]]],
    hypotheses: Sequence[str],
    references: Sequence[str],
) -> NDArray[np.int64]:
    """Return sacrebleu's statistics (N, K); their sum determines the corpus score."""
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references")
    _refuse_empty(hypotheses)
    return np.array(extract(hypotheses, [references]), dtype=np.int64)


def _one_row_each(counts: Counts) -> NDArray[np.int64]:
    _refuse_empty(counts)
    return np.arange(len(counts))


def _refuse_empty(examples: Sequence[object] | Counts) -> None:
    if len(examples) == 0:
        raise ValueError("a score needs at least one example")


# --- formulas: from the (K,) sum over all examples to the metric -----------------------------------


def ratio(sums: Counts) -> float:
    """Return the first sum divided by the second."""
    return float(sums[0] / sums[1])


def share(sums: Counts) -> float:
    """Return the share of the examples that are hits, from (2,): hits and examples."""
    return ratio(sums)


def ratio_or_zero(sums: Counts) -> float:
    """Return the first sum divided by the second; 0 if the second is 0."""
    return ratio(sums) if sums[1] else 0.0


def exp_ratio(sums: Counts) -> float:
    """Return exp of the first sum divided by the second; infinite if exp overflows."""
    try:
        return math.exp(ratio(sums))
    except OverflowError:
        return math.inf


def mean_f1(sums: Counts) -> float:
    """Return the mean F1 of C classes from (2C,) sums: hits, then answers plus labels."""
    hit, both = np.split(sums, 2)
    present = both > 0
    return float((2 * hit[present] / both[present]).mean()) if present.any() else 0.0


def bleu_of_counts(sums: Counts) -> float:
    """Return BLEU from sacrebleu's corpus statistics."""
    return float(_bleu()._compute_score_from_stats(sums.tolist()).score)


def chrf_of_counts(sums: Counts) -> float:
    """Return chrF2 from sacrebleu's corpus statistics."""
    return float(_chrf()._compute_score_from_stats(sums.tolist()).score)


FORMULAS = {
    formula.__name__: formula
    for formula in (ratio, share, ratio_or_zero, exp_ratio, mean_f1, bleu_of_counts, chrf_of_counts)
}


@cache
def _bleu() -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(force=True)  # turns off a warning about tokenised input; the score does not change


@cache
def _chrf() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()
