"""Look at the data and time a few steps of one method, to know how fast this machine is."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from explora.core.base.find import base_tokenizer, open_base
from explora.core.bench.measurements import Cell, Measurement
from explora.core.bench.protocol import ask
from explora.core.bench.shared_rows import sample, write_sample
from explora.core.config.registry import TASKS, Shape
from explora.core.config.run_config import TrainRun
from explora.core.machine.malloc import TUNABLES
from explora.core.runs.assemble import make_task
from explora.core.tasks.contract import Example

SECONDS = 6.0  # of training, warm-up included; starting the process takes about as long
CELL = "explora.core.bench.cell_process"


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What advice depends on: the base's shape and name for people, rows, longest row, number of classes.

    `classes` is None where the labels do not decide it.
    """

    base: str
    shape: Shape
    rows: Sequence[Example]
    longest: int
    classes: int | None

    @property
    def examples(self) -> int:
        """The number of training rows."""
        return len(self.rows)


def survey(run: TrainRun) -> Survey:
    """Open base and data. Raises UsageError, DataError or WeightsError."""
    base = open_base(run.model)
    tokenizer = base_tokenizer(base, run.tokenizer)
    context = base.shape.n_positions
    task = make_task(run.task, tokenizer, run.encoding, run.method, context, run.training.seed)
    rows = task.load(run.data, "train").examples
    own_head = TASKS[run.task].own_head
    return Survey(
        base=base.label,
        shape=base.shape,
        rows=rows,
        longest=max(len(row.ids) for row in rows),
        classes=max(2, len({row.label for row in rows})) if own_head else None,
    )


def time_rows(run: TrainRun, rows: Sequence[Example]) -> float:
    """Return how many rows a second training processes here, after a warm-up.

    The runtime of `run` is resolved. A process of its own trains for a few seconds. Raises TrainingError.
    """
    with tempfile.TemporaryDirectory(prefix="explora-advice-") as scratch:
        data = run.data if TASKS[run.task].stream else write_sample(sample(rows, [run]), Path(scratch))
        cell = Cell(run=dataclasses.replace(run, data=data), length=None, steps=None, seconds=SECONDS)
        found = Measurement.from_json(ask(CELL, cell.to_json(), TUNABLES))
    return found.examples / found.seconds
