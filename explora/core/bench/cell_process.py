"""The process of a cell: it measures the first steps of a real training, phase by phase.

`python -m explora.core.bench.cell_process` reads a Cell as JSON from stdin and writes a Measurement to
stdout.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, cycle, islice
from pathlib import Path
from typing import Any

from explora.core.bench.accounting import runtime_bytes, tensor_parts
from explora.core.bench.device import Clock, device_peak_bytes, matrix_peak
from explora.core.bench.measurements import FEWEST_STEPS, WARMUP_STEPS, Cell, Measurement, MemoryParts
from explora.core.bench.protocol import answer
from explora.core.config.registry import TASKS
from explora.core.config.run_config import TrainRun
from explora.core.data.batching import epoch_batches
from explora.core.estimate.flop import step_flop
from explora.core.estimate.parameters import count as count_parameters
from explora.core.machine.facts import peak_memory_bytes
from explora.core.runs.adapter import with_digest
from explora.core.runs.assemble import Session, assemble_for_training
from explora.core.runtime.resolve import DTYPES, resolve_runtime
from explora.core.tasks.contract import Example
from explora.core.training.events import StepDone
from explora.core.training.loop import Training

NO_CHECKPOINT = Path("no-such-folder")


class ClockedTraining:
    """A training that takes single steps under a clock and counts its work, without evaluations and files."""

    def __init__(self, session: Session, run: TrainRun, examples: Sequence[Example]) -> None:
        self.clock = Clock(session.model.device)
        self.training = Training(
            session.model, session.task, run, examples, (), NO_CHECKPOINT, self.clock.phase
        )
        self.batches = endless_batches(self.training.lengths, run)
        self.rows = hashlib.sha256()
        self.restart()

    def restart(self) -> None:
        """Reset the clock and the counts."""
        self.clock.seconds.clear()
        self.taken = self.examples_seen = self.tokens = 0
        self.flop = 0.0

    def step(self) -> float:
        """Take the next step and return its loss."""
        epoch, rows = next(self.batches)
        with self.clock.phase("step"):
            done = self.training.take_step(rows, epoch)
        for row in rows:
            self.rows.update(array("q", self.training.examples[row].ids).tobytes())
        self.taken += 1
        self.examples_seen += len(rows)
        self.tokens += done.tokens
        self.flop += self._flop(done)
        return done.loss

    def _flop(self, done: StepDone) -> float:
        run, shape = self.training.run, self.training.model.shape
        if TASKS[run.task].one_position:  # an answer needs only one or two rows of the head, at one position
            return step_flop(shape, run.method, done.tokens, 0, answers=done.items)
        return step_flop(shape, run.method, done.tokens, done.items)

    def repeat_longest(self) -> None:
        """Take the first step, which has the longest batch, once more without counting it."""
        epoch, rows = next(endless_batches(self.training.lengths, self.training.run))
        self.training.take_step(rows, epoch)


def endless_batches(lengths: Sequence[int], run: TrainRun) -> Iterator[tuple[int, list[int]]]:
    """Yield epoch and row numbers of each batch in the order of the training of `run`, without end."""
    for epoch in count():
        for rows in epoch_batches(lengths, run.training.batch_size, run.training.seed, epoch):
            yield epoch, rows


def filled(example: Example, length: int | None) -> Example:
    """Return the example with its token ids repeated or cut to `length`, for timing only.

    A poem keeps at least one line break.
    """
    if length is None:
        return example
    kept = tuple(at for at in example.breaks if at < length)
    breaks = (kept or (length,)) if example.breaks else ()
    return dataclasses.replace(example, ids=list(islice(cycle(example.ids), length)), breaks=breaks)


def open_cell(cell: Cell) -> tuple[Session, TrainRun, list[Example]]:
    """Return the session at step 0, its run at a constant learning rate, and its rows."""
    run = dataclasses.replace(
        cell.run,
        optimizer=dataclasses.replace(cell.run.optimizer, schedule="constant", warmup=0.0),
        training=dataclasses.replace(cell.run.training, accumulate=1),
        runtime=resolve_runtime(cell.run.runtime),
    )
    session, train, _ = assemble_for_training(run)
    return session, run, [filled(example, cell.length) for example in train.examples]


def measure(request: Mapping[str, Any]) -> dict[str, Any]:
    """Warm up, time the steps, and return the Measurement as JSON data."""
    baseline, cell = peak_memory_bytes(), Cell.from_json(request)
    session, run, examples = open_cell(cell)
    clocked = ClockedTraining(session, run, examples)
    started = time.perf_counter()
    losses = [clocked.step() for _ in range(WARMUP_STEPS)]
    clocked.repeat_longest()  # the peak of later epochs includes the optimizer's state
    clocked.restart()
    while not _enough(cell, clocked.taken, time.perf_counter() - started):
        clocked.step()
    model, optimizers, device = session.model, clocked.training.optimizers, session.model.device
    seconds, sizes = dict(clocked.clock.seconds), _sizes(session)
    peak = device_peak_bytes(device)
    runtime = runtime_bytes(model, optimizers)
    tensors = tensor_parts(model, optimizers, clocked.clock, clocked.repeat_longest)
    return Measurement(
        steps=clocked.taken,
        examples=clocked.examples_seen,
        tokens=clocked.tokens,
        seconds=seconds["step"],
        forward=seconds["forward"],
        backward=seconds["backward"],
        optimizer=seconds["optimizer"],
        flop=clocked.flop,
        peak_memory_bytes=peak,
        baseline_memory_bytes=baseline,
        parts=MemoryParts(runtime=runtime, **tensors),
        matrix_peak=matrix_peak(DTYPES[run.runtime.amp], device),
        **sizes,
        first_loss=losses[0],
        rows=clocked.rows.hexdigest(),
    ).to_json()


def _enough(cell: Cell, steps: int, seconds: float) -> bool:
    if cell.steps is not None:
        return steps >= cell.steps
    return steps >= FEWEST_STEPS and seconds >= cell.seconds


def _sizes(session: Session) -> dict[str, int]:
    """Return the numbers of trained and of all parameters, and the size of the saved file."""
    assert session.header is not None
    model = session.model
    header = with_digest(session.header.to_json(), {})
    counted = count_parameters(model.shape, session.method, session.classes, header)
    return {
        "trainable": sum(value.numel() for value in model.parameters() if value.requires_grad),
        "total": counted.total,
        "checkpoint_bytes": counted.adapter_bytes,
    }


if __name__ == "__main__":
    answer(measure)
