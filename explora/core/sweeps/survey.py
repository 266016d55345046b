"""Forecast of a sweep's cells: steps, work and memory, from the rows of the data and closed forms."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from explora.core.base.find import base_tokenizer, open_base
from explora.core.config.registry import TASKS, Shape
from explora.core.config.run_config import TrainRun
from explora.core.estimate.flop import step_flop
from explora.core.estimate.memory import Memory, predict
from explora.core.runs.assemble import make_task


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The training rows of some cells: their number and lengths in tokens; `classes` is None for text.

    `shape` is that of the base that reads them.
    """

    shape: Shape
    examples: int
    longest: int
    mean: float
    classes: int | None
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Predicted steps, work and memory of a cell.

    steps: optimizer steps, None if time or the data decide them; work: floating-point operations, or minutes
    if time limits a cell; memory: the predicted peak, None without rows.
    """

    steps: int | None
    work: float
    memory: Memory | None

    @property
    def memory_bytes(self) -> int | None:
        """The predicted peak memory in bytes; None without rows."""
        return None if self.memory is None else self.memory.peak


def survey(runs: Sequence[TrainRun]) -> tuple[list[Forecast], list[str]]:
    """Read the data of all runs once; return a forecast for each run, and the messages about skipped rows.

    The runtimes must be resolved. Raises DataError and WeightsError, so that a bad row or a missing base is
    reported before any training starts.
    """
    known: list[tuple[Any, Rows | None]] = []
    forecasts = []
    for run in runs:
        reads = (run.model, run.tokenizer, run.from_scratch, run.encoding, run.data)
        rows = next((rows for key, rows in known if key == reads), None)
        if rows is None:
            rows = _read_rows(run)
            known.append((reads, rows))
        forecasts.append(_forecast(run, rows))
    return forecasts, list(_messages(rows for _, rows in known))


def _messages(found: Iterable[Rows | None]) -> Iterable[str]:
    return dict.fromkeys(message for rows in found if rows for message in rows.skipped)


def _read_rows(run: TrainRun) -> Rows | None:
    """Return the rows of a run; None for a base from scratch, because the run trains its tokenizer."""
    if run.from_scratch is not None:
        return None
    base = open_base(run.model)
    tokenizer, context = base_tokenizer(base, run.tokenizer), base.shape.n_positions
    task = make_task(run.task, tokenizer, run.encoding, run.method, context, run.training.seed)
    train, dev = task.load(run.data, "train"), task.load(run.data, "dev")
    lengths = [len(example.ids) for example in train.examples]
    return Rows(
        shape=base.shape,
        examples=len(lengths),
        longest=max(lengths),
        mean=sum(lengths) / len(lengths),
        classes=len(task.labels) or None,
        skipped=(*train.skipped, *dev.skipped),
    )


def _forecast(run: TrainRun, rows: Rows | None) -> Forecast:
    training = run.training
    per_step = training.batch_size * training.accumulate
    shape = rows.shape if rows else run.from_scratch
    assert shape is not None
    steps = training.max_steps
    if steps is None and training.max_minutes is not None:
        return Forecast(steps=None, work=training.max_minutes, memory=_memory(run, shape, rows))
    if steps is None and rows is not None:
        steps = training.epochs * math.ceil(rows.examples / per_step)
    tokens = round(per_step * (rows.mean if rows else run.encoding.max_length))
    head_tokens = per_step if TASKS[run.task].one_position else tokens
    work = (steps or training.epochs) * step_flop(shape, run.method, tokens, head_tokens)
    return Forecast(steps=steps, work=work, memory=_memory(run, shape, rows))


def _memory(run: TrainRun, shape: Shape, rows: Rows | None) -> Memory | None:
    if rows is None:
        return None
    return predict(run, shape, rows.longest, classes=rows.classes)
