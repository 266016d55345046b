"""Metrics as pure functions, each with its interval.

Every metric here is a formula over sums of per-example counts: hits, the two sides of F1, negative log
likelihoods, matched n-grams. A `Score` keeps the counts by example beside the formula, so that resampling
the examples costs a sum and never a second look at the data.
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

FEW_EXAMPLES = 100  # below, an interval is wide: an accuracy near 0.5 is known to within 0.1 at best
Counts = NDArray[np.int64] | NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """A metric's value with what it takes to resample it.

    `counts` is (U, K), one row for each distinct example; `order` (N,) says which of these rows each example
    has, in the order of the examples, so that two scores of the same examples can be paired; `formula` turns
    the (K,) sum over all N examples into the metric.
    """

    counts: Counts
    order: NDArray[np.int64]
    formula: Callable[[Counts], float]
    higher_is_better: bool = True

    @property
    def value(self) -> float:
        """The metric of all examples."""
        return self.formula(self.sums)

    @property
    def sums(self) -> Counts:
        """The sum of the counts of all examples, (K,)."""
        return self.times @ self.counts

    @property
    def times(self) -> NDArray[np.int64]:
        """How often each distinct example occurs, (U,)."""
        return np.bincount(self.order, minlength=len(self.counts))

    @property
    def by_example(self) -> Counts:
        """The counts of each example, (N, K), in the order of the examples."""
        return self.counts[self.order]

    def grouped(self, groups: Sequence[int]) -> Score:
        """Return the score whose examples are whole groups of these, such as the parts of one text.

        `groups` (N,) names the group of each example, from 0. Resampling then draws whole groups.
        """
        members = np.asarray(groups) == np.arange(max(groups) + 1)[:, None]
        sums = members.astype(self.counts.dtype) @ self.by_example
        return replace(self, counts=sums, order=np.arange(len(sums)))

    def to_json(self) -> dict[str, Any]:
        """Return plain lists, and the formula by its name in `FORMULAS`."""
        return {
            "formula": self.formula.__name__,
            "counts": self.counts.tolist(),
            "order": self.order.tolist(),
            "higher_is_better": self.higher_is_better,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Score:
        """Return the score that `to_json` wrote."""
        counts, order = np.array(value["counts"]), np.array(value["order"], dtype=np.int64)
        return cls(counts, order, FORMULAS[value["formula"]], value["higher_is_better"])

    def interval(self, *, level: float = 0.95, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
        """Return Wilson's interval for a share, else the percentile bootstrap interval (Efron 1979).

        The bootstrap is over the examples. The same seed gives the same interval. Where every resample has
        the same value, such as from one example or equal ones, it knows no interval: both ends are NaN.
        """
        if self.formula is share:
            hits, examples = self.sums
            return wilson_interval(int(hits), int(examples), level)
        generator = np.random.default_rng(seed)
        times = self.times
        values = sorted(self.formula(_resample(times, generator) @ self.counts) for _ in range(resamples))
        if math.isclose(values[0], values[-1], rel_tol=1e-9):
            return math.nan, math.nan
        tail = int(resamples * (1 - level) / 2)
        return values[tail], values[-1 - tail]


def wilson_interval(hits: int, examples: int, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval (1927, "Probable inference") of the share `hits` / `examples`.

    It holds every share p from which hits / examples is at most z standard errors sqrt(p (1 - p) / examples).
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    center = (hits + z**2 / 2) / (examples + z**2)
    half = z / (examples + z**2) * math.sqrt(hits * (examples - hits) / examples + z**2 / 4)
    return max(0.0, center - half), min(1.0, center + half)


def accuracy(answers: Sequence[int], labels: Sequence[int]) -> Score:
    """The fraction of answers that equal their label."""
    cells, order = _confusion_cells(answers, labels)
    right = cells[:, 0] == cells[:, 1]
    return Score(np.stack([right, np.ones_like(right)], axis=1).astype(np.int64), order, share)


def macro_f1(answers: Sequence[int], labels: Sequence[int]) -> Score:
    """The unweighted mean of the F1 of every class that is answered or labelled at least once.

    A class that is only answered or only labelled counts as 0. A resample averages over the classes it holds.
    """
    cells, order = _confusion_cells(answers, labels)
    classes = np.unique(cells)
    answered = cells[:, :1] == classes
    labelled = cells[:, 1:] == classes
    return Score(_f1_counts(answered, labelled), order, mean_f1)


def positive_f1(answers: Sequence[int], labels: Sequence[int], positive: int = 1) -> Score:
    """F1 of the class `positive` alone; 0 where it is neither answered nor labelled."""
    cells, order = _confusion_cells(answers, labels)
    return Score(_f1_counts(cells[:, :1] == positive, cells[:, 1:] == positive), order, mean_f1)


def perplexity(nll: ArrayLike, tokens: ArrayLike) -> Score:
    """exp of the mean negative log likelihood per token.

    `nll` (N,) holds each text's summed negative log likelihood in nats, `tokens` (N,) how many tokens it
    sums over. Resampling draws whole texts. Infinite where exp overflows.
    """
    counts = np.stack([np.asarray(nll, np.float64), np.asarray(tokens, np.float64)], axis=1)
    return Score(counts, _one_row_each(counts), exp_ratio, higher_is_better=False)


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    """Corpus BLEU of one reference each, 0 to 100, with sacrebleu's defaults (13a, exp smoothing)."""
    counts = _ngram_counts(_bleu()._extract_corpus_statistics, hypotheses, references)
    return Score(counts, _one_row_each(counts), bleu_of_counts)


def chrf(hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    """Corpus chrF2 of one reference each, 0 to 100, with sacrebleu's defaults, as CS224N scores sonnets."""
    counts = _ngram_counts(_chrf()._extract_corpus_statistics, hypotheses, references)
    return Score(counts, _one_row_each(counts), chrf_of_counts)


def signatures() -> dict[str, str]:
    """Return sacrebleu's signatures of `bleu` and `chrf`, which let others compute the same scores."""
    found = {}
    for name, metric in (("bleu", _bleu()), ("chrf", _chrf())):
        metric.corpus_score(["a"], [["a"]])  # the signature counts the references of the last score
        found[name] = str(metric.get_signature())
    return found


def _confusion_cells(
    answers: Sequence[int], labels: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The distinct (answer, label) pairs (U, 2) and which of them each example is (N,)."""
    pairs = np.array(list(zip(answers, labels, strict=True)), dtype=np.int64)
    _refuse_empty(pairs)
    cells, order = np.unique(pairs, axis=0, return_inverse=True)
    return cells, order.ravel()


def _f1_counts(answered: NDArray[np.bool_], labelled: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(U, C) memberships -> (U, 2C): what was hit, then answered plus labelled (F1 = 2 hit / both)."""
    both = answered.astype(np.int64) + labelled
    return np.concatenate([answered & labelled, both], axis=1, dtype=np.int64)


def _resample(times: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Draw as many examples as there are, with replacement; return how often each distinct one came (U,)."""
    examples = int(times.sum())
    if len(times) == examples:  # all distinct: counting draws is several times as fast as a multinomial
        return np.bincount(generator.integers(examples, size=examples), minlength=examples)
    return generator.multinomial(examples, times / examples)


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


def _one_row_each(counts: Counts) -> NDArray[np.int64]:
    _refuse_empty(counts)
    return np.arange(len(counts))


def _refuse_empty(examples: Sequence[object] | Counts) -> None:
    if len(examples) == 0:
        raise ValueError("a score of no examples is not defined")


# --- formulas: from the (K,) sum of all examples to the metric ------------------------------------


def ratio(sums: Counts) -> float:
    """The first sum per the second."""
    return float(sums[0] / sums[1])


def share(sums: Counts) -> float:
    """The share of the examples that are hits: (2,) hits and examples."""
    return ratio(sums)


def ratio_or_zero(sums: Counts) -> float:
    """The first sum per the second; 0 where there is nothing to count."""
    return ratio(sums) if sums[1] else 0.0


def exp_ratio(sums: Counts) -> float:
    """exp of the first sum per the second; infinite where that overflows."""
    try:
        return math.exp(ratio(sums))
    except OverflowError:
        return math.inf


def mean_f1(sums: Counts) -> float:
    """The mean F1 of C classes from (2C,) sums: hits, then answered plus labelled."""
    hit, both = np.split(sums, 2)
    present = both > 0
    return float((2 * hit[present] / both[present]).mean()) if present.any() else 0.0


def bleu_of_counts(sums: Counts) -> float:
    """BLEU from sacrebleu's corpus statistics."""
    return float(_bleu()._compute_score_from_stats(sums.tolist()).score)


def chrf_of_counts(sums: Counts) -> float:
    """chrF2 from sacrebleu's corpus statistics."""
    return float(_chrf()._compute_score_from_stats(sums.tolist()).score)


FORMULAS = {
    formula.__name__: formula
    for formula in (ratio, share, ratio_or_zero, exp_ratio, mean_f1, bleu_of_counts, chrf_of_counts)
}


@cache
def _bleu() -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(force=True)  # silences a warning about tokenised input; it does not change the score


@cache
def _chrf() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()
