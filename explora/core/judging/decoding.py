"""Score decoding settings: the same poems continued with several temperatures, top-p values and penalties."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from explora.core.data.prompts import first_lines_of
from explora.core.generate.sampling import SamplingConfig
from explora.core.judging.continuing import continue_texts
from explora.core.runs.assemble import Session
from explora.core.tasks.contract import Example
from explora.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class ScoredDecoding:
    """The scores of one setting with 95 % intervals, over `num` continuations of each of `examples` poems."""

    sampling: SamplingConfig
    examples: int
    num: int
    scores: dict[str, float]
    intervals: dict[str, tuple[float, float]]

    def to_json(self) -> dict[str, Any]:
        """Return the scores as plain JSON data."""
        return dataclasses.asdict(self)


def sampling_grid(
    temperatures: Sequence[float], top_ps: Sequence[float], penalties: Sequence[float]
) -> list[SamplingConfig]:
    """Return greedy decoding with each penalty, then every combination. Raises UsageError."""
    greedy = [SamplingConfig(greedy=True, repetition_penalty=penalty) for penalty in penalties]
    return greedy + [
        SamplingConfig(temperature=temperature, top_p=top_p, repetition_penalty=penalty)
        for temperature, top_p, penalty in product(temperatures, top_ps, penalties)
    ]


def score_decodings(
    session: Session,
    examples: Sequence[Example],
    train: Sequence[Example],
    grid: Sequence[SamplingConfig],
    *,
    seed: int,
    num: int = 1,
    batch_size: int = 32,
) -> Iterator[ScoredDecoding]:
    """Yield the scores of each setting. Every setting continues a poem with the same seeds.

    Intervals treat the continuations of one poem as independent. Raises UsageError for a task without such
    scores, and DataError for a poem without a text to compare with.
    """
    if not all(example.row.values.get("text") for example in examples):
        raise UsageError(f"{session.task_name} has no poems to continue")
    poems = list(examples) * num
    prompts = [first_lines_of(example.row) for example in poems]
    for sampling in grid:
        texts = continue_texts(session, prompts, sampling, seed, batch_size=batch_size)
        scores = session.task.score_texts(poems, [text.rstrip("\n") for text in texts], train)
        yield ScoredDecoding(
            sampling=sampling,
            examples=len(examples),
            num=num,
            scores={name: score.value for name, score in scores.items()},
            intervals={name: score.interval() for name, score in scores.items()},
        )
