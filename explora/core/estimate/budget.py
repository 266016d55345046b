"""Batch size, accumulation and checkpointing for a memory budget, with equally many rows per step."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from explora.core.config.registry import Shape
from explora.core.config.run_config import TrainRun
from explora.core.estimate.memory import Memory, predict

# Products of at least this many rows are about as fast as larger ones. Down to this size, smaller batches
# cost less time than checkpointing, which computes a third more.
EFFICIENT_TOKENS = 512
MOST_ROWS = 4096  # of a batch
HEADROOM = 0.1  # stays free, because predictions were up to a tenth too low (benchmarks/results/memory.md)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A run with some batch size, the tokens of its longest rows, and its predicted memory."""

    run: TrainRun
    length: int
    memory: Memory

    @property
    def needs(self) -> int:
        """The bytes that should be available: the prediction plus the headroom."""
        return round(self.memory.peak * (1 + HEADROOM))

    def to_json(self, *, is_chosen: bool) -> dict[str, Any]:
        """Return the prediction as in `params --json`; `options` only if a budget chose them."""
        training, runtime = self.run.training, self.run.runtime
        return {
            "batch_size": training.batch_size,
            "accumulate": training.accumulate,
            "length": self.length,
            "amp": runtime.amp,
            "grad_checkpoint": runtime.grad_checkpoint,
            "parts": dataclasses.asdict(self.memory),
            "peak_bytes": self.memory.peak,
            "options": self.options if is_chosen else None,
        }

    @property
    def options(self) -> str:
        """The options of this choice for `train`."""
        training = self.run.training
        words = f"--batch-size {training.batch_size} --accumulate {training.accumulate}"
        return words + (" --grad-checkpoint" if self.run.runtime.grad_checkpoint else "")


@dataclass(frozen=True, kw_only=True)
class Shortage:
    """A run that needs more bytes than available; `choice` fits instead, None if nothing fits."""

    needed: int
    limit: int
    choice: Choice | None


def find_shortage(
    run: TrainRun, shape: Shape, length: int, *, classes: int | None, resident: int, available: int
) -> Shortage | None:
    """Compare the needs of a run before its first step with the available memory; None if it is enough.

    `resident` are the bytes in use by the process, `available` those that it may still get.
    """
    loaded = predict(run, shape, length, classes=classes)
    runtime = max(loaded.runtime, resident - loaded.weights)  # it contains the rows
    needed, limit = loaded.peak - loaded.runtime + runtime, resident + available
    if needed <= limit:
        return None
    choice = fit(run, shape, length, limit, classes=classes, runtime=runtime)
    return Shortage(needed=needed, limit=limit, choice=choice)


def fit(
    run: TrainRun,
    shape: Shape,
    length: int,
    budget: int,
    *,
    classes: int | None = None,
    runtime: int | None = None,
) -> Choice | None:
    """Return the fastest choice that fits into `budget` bytes, None if there is none; see `predict`."""
    choices = _choices(run, shape, length, classes, runtime)
    return next((choice for choice in choices if choice.needs <= budget), None)


def smaller(
    run: TrainRun, shape: Shape, length: int, budget: int | None, *, classes: int | None
) -> Choice | None:
    """Return the fastest choice that needs less memory than a run that failed, and fits into a budget.

    `budget` is in bytes, None if it is not known. Returns None if there is no such choice.
    """
    peak = predict(run, shape, length, classes=classes).peak
    choices = (each for each in _choices(run, shape, length, classes, None) if each.memory.peak < peak)
    return next((choice for choice in choices if budget is None or choice.needs <= budget), None)


def least(
    run: TrainRun, shape: Shape, length: int, *, classes: int | None = None, runtime: int | None = None
) -> Choice:
    """Return the choice that needs least memory."""
    return min(_choices(run, shape, length, classes, runtime), key=lambda choice: choice.memory.peak)


def largest_batch(
    run: TrainRun, shape: Shape, length: int, budget: int, *, classes: int | None, headroom: float
) -> int:
    """Return the largest batch size, up to MOST_ROWS, that fits into `budget` bytes; 0 if none fits.

    headroom: share of the predicted memory to keep free on top of it.
    """

    def is_too_large(rows: int) -> bool:
        memory = predict(_with_batch(run, rows), shape, length, classes=classes)
        return memory.peak * (1 + headroom) > budget

    return bisect.bisect_left(range(1, MOST_ROWS + 1), True, key=is_too_large)


def with_one_row(run: TrainRun) -> TrainRun:
    """Return the run with one row per optimizer step, which needs least memory of all batch sizes."""
    training = dataclasses.replace(run.training, batch_size=1, accumulate=1)
    return dataclasses.replace(run, training=training)


def _with_batch(run: TrainRun, rows: int) -> TrainRun:
    return dataclasses.replace(run, training=dataclasses.replace(run.training, batch_size=rows))


def _choices(
    run: TrainRun, shape: Shape, length: int, classes: int | None, runtime: int | None
) -> Iterator[Choice]:
    """Yield the alternatives to a run, the fastest first; batch sizes never increase."""
    rows = run.training.batch_size * run.training.accumulate
    for size in range(rows, 0, -1):
        if rows % size:
            continue
        for checkpointing in _checkpointing(run, size // 2 * length):
            changed = _changed(run, size, checkpointing)
            memory = predict(changed, shape, length, classes=classes, runtime=runtime)
            yield Choice(run=changed, length=length, memory=memory)


def _checkpointing(run: TrainRun, tokens_of_half: int) -> tuple[bool, ...]:
    """Return the values of checkpointing to try before half the batch: False only, while that is faster."""
    if run.runtime.grad_checkpoint:
        return (True,)
    return (False,) if tokens_of_half >= EFFICIENT_TOKENS else (False, True)


def _changed(run: TrainRun, batch_size: int, checkpointing: bool) -> TrainRun:
    accumulate = run.training.batch_size * run.training.accumulate // batch_size
    training = dataclasses.replace(run.training, batch_size=batch_size, accumulate=accumulate)
    runtime = dataclasses.replace(run.runtime, grad_checkpoint=checkpointing)
    return dataclasses.replace(run, training=training, runtime=runtime)
