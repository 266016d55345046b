"""Perplexity of poems after some given lines, and of predictions without context."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from explora.core.tasks.contract import Example
from explora.core.tasks.metrics import Score, perplexity
from explora.core.tasks.trivial import UNIFORM, UNIGRAM, uniform_losses, unigram_losses, values_of

GIVEN_LINES = (1, 3, 6, 12)  # numbers of given lines for which perplexity is reported


def perplexities(
    examples: Sequence[Example], losses: Sequence[Tensor | NDArray[np.float64]]
) -> dict[str, Score]:
    """Return the perplexity of the text after 1, 3, 6 and 12 given lines, together and for each.

    `losses` has the losses of each poem's tokens without the first one, (T - 1,).
    """
    sums = {
        given: [
            (float(loss[example.breaks[given - 1] - 1 :].sum()), len(loss) - example.breaks[given - 1] + 1)
            for example, loss in zip(examples, losses, strict=True)
            if len(example.breaks) > given
        ]
        for given in GIVEN_LINES
    }
    pooled = [pair for pairs in sums.values() for pair in pairs]
    scores = {"perplexity": _perplexity(pooled)}
    return scores | {f"perplexity_given_{n}": _perplexity(pairs) for n, pairs in sums.items() if pairs}


def by_poem(pooled: Score, examples: Sequence[Example]) -> Score:
    """Return the perplexity over all given lines with whole poems as its examples, for resampling."""
    return pooled.grouped(
        [row for given in GIVEN_LINES for row, poem in enumerate(examples) if len(poem.breaks) > given]
    )


def trivial_perplexities(
    examples: Sequence[Example], train: Sequence[Example], vocabulary: int
) -> dict[str, dict[str, float]]:
    """Return the perplexities of predictions that ignore the context, by answer and metric."""
    tables = {UNIFORM: uniform_losses(vocabulary)}
    if train:
        tables[UNIGRAM] = unigram_losses((example.ids for example in train), vocabulary)
    return {
        answer: values_of(perplexities(examples, [table[example.ids[1:]] for example in examples]))
        for answer, table in tables.items()
    }


def _perplexity(pairs: Sequence[tuple[float, int]]) -> Score:
    if not pairs:
        return perplexity([math.nan], [1])
    return perplexity([loss for loss, _ in pairs], [count for _, count in pairs])
