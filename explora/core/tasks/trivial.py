"""Scores of trivial answers, which need no model: a useful score must be better."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from explora.core.tasks.metrics import Score

UNIFORM = "uniform guess"
UNIGRAM = "unigram frequencies"


@dataclass(frozen=True)
class Trivial:
    """The score `value` of a trivial answer, and its description: "always yes"."""

    value: float
    answer: str


def best_trivial(
    scores: Mapping[str, Score], answers: Mapping[str, Mapping[str, float]]
) -> dict[str, Trivial]:
    """Return the best trivial answer for each metric of `scores` that has one.

    `answers` holds the scores of each trivial answer by metric. Among equal answers, the first is used.
    """
    best: dict[str, Trivial] = {}
    for metric, score in scores.items():
        found = [Trivial(values[metric], answer) for answer, values in answers.items() if metric in values]
        if found:
            sign = 1 if score.higher_is_better else -1
            best[metric] = max(found, key=lambda each: sign * each.value)
    return best


def values_of(scores: Mapping[str, Score]) -> dict[str, float]:
    """Return the value of each score by name."""
    return {name: score.value for name, score in scores.items()}


def uniform_losses(vocabulary: int) -> NDArray[np.float64]:
    """Return the loss in nats of each token, (V,), if every token is equally likely."""
    return np.full(vocabulary, np.log(vocabulary))


def unigram_losses(texts: Iterable[ArrayLike], vocabulary: int) -> NDArray[np.float64]:
    """Return the loss in nats of each token, (V,), under its frequency in the training `texts`.

    Tokens that do not occur get a probability by interpolation with the uniform distribution (Witten and Bell
    1991): p(w) = (c(w) + T / V) / (N + T), for N tokens of which T are distinct. `texts` are token ids (N,).
    """
    counts = np.zeros(vocabulary)
    for ids in texts:
        counts += np.bincount(np.asarray(ids, dtype=np.int64), minlength=vocabulary)
    distinct = np.count_nonzero(counts)
    losses: NDArray[np.float64] = np.log((counts.sum() + distinct) / (counts + distinct / vocabulary))
    return losses
