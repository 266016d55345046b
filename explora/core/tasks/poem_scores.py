"""Scores of continued poems: perplexity after some given lines, BLEU and chrF, and what trivial texts get."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import cycle, islice
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from explora.core.tasks.contract import Example
from explora.core.tasks.metrics import Score, bleu, chrf, perplexity
from explora.core.tasks.trivial import UNIFORM, UNIGRAM, uniform_losses, unigram_losses, values_of

SONNET_LINES = 14
GIVEN_LINES = (1, 3, 6, 12)  # lines given where the perplexity of the rest is reported
DRAWS = 20  # of another poem's end for every poem
ANOTHER_POEM = "another poem's end"
THE_GIVEN_LINES = "given lines again"
WAYS = ("greedy", "sampled")


def perplexities(
    examples: Sequence[Example], losses: Sequence[Tensor | NDArray[np.float64]]
) -> dict[str, Score]:
    """Return the perplexity of what follows 1, 3, 6 and 12 given lines, together and apart.

    `losses` has, for each poem, the loss of every token but the first, (T - 1,).
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
    """Return the perplexity over all given lines with poems as its examples: resampling draws whole poems."""
    return pooled.grouped(
        [row for given in GIVEN_LINES for row, poem in enumerate(examples) if len(poem.breaks) > given]
    )


def text_scores(
    way: str, prompts: Sequence[str], hypotheses: Sequence[str], references: Sequence[str]
) -> dict[str, Score]:
    """Score continuations alone and, as `course_`, the course's way: the given lines count too."""
    whole = [prompt + text for prompt, text in zip(prompts, hypotheses, strict=True)]
    poems = [prompt + text for prompt, text in zip(prompts, references, strict=True)]
    return {
        f"bleu_{way}": bleu(hypotheses, references),
        f"chrf_{way}": chrf(hypotheses, references),
        f"course_bleu_{way}": bleu(whole, poems),
        f"course_chrf_{way}": chrf(whole, poems),
    }


def trivial_perplexities(
    examples: Sequence[Example], train: Sequence[Example], vocabulary: int
) -> dict[str, dict[str, float]]:
    """Return the perplexities of predicting each token without its context, by answer and metric."""
    tables = {UNIFORM: uniform_losses(vocabulary)}
    if train:
        tables[UNIGRAM] = unigram_losses((example.ids for example in train), vocabulary)
    return {
        answer: values_of(perplexities(examples, [table[example.ids[1:]] for example in examples]))
        for answer, table in tables.items()
    }


def trivial_texts(
    prompts: Sequence[str], references: Sequence[str], tails: Sequence[str], seed: int
) -> dict[str, dict[str, float]]:
    """Return BLEU and chrF of texts that no model wrote, by answer and metric.

    `tails` are the ends of training poems: each poem gets a random one, and the scores are means of 20 draws.
    """
    repeated = _trivial_scores(prompts, [_repeated(prompt) for prompt in prompts], references)
    if not tails:
        return {THE_GIVEN_LINES: repeated}
    generator = random.Random(seed)
    draws = [
        _trivial_scores(prompts, [generator.choice(tails) for _ in prompts], references) for _ in range(DRAWS)
    ]
    return {
        ANOTHER_POEM: {name: fmean(draw[name] for draw in draws) for name in repeated},
        THE_GIVEN_LINES: repeated,
    }


def _perplexity(pairs: Sequence[tuple[float, int]]) -> Score:
    if not pairs:
        return perplexity([math.nan], [1])
    return perplexity([loss for loss, _ in pairs], [count for _, count in pairs])


def _repeated(prompt: str) -> str:
    """Repeat the given lines until the poem has fourteen lines."""
    lines = prompt.splitlines()
    return "\n".join(islice(cycle(lines), SONNET_LINES - len(lines)))


def _trivial_scores(
    prompts: Sequence[str], hypotheses: Sequence[str], references: Sequence[str]
) -> dict[str, float]:
    """Return the scores of texts that no model wrote: the same for greedy and for sampled texts."""
    found = text_scores("", prompts, hypotheses, references)
    return {name + way: score.value for name, score in found.items() for way in WAYS}
