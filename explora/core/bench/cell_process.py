"""What runs inside the process of a cell: the first steps of a real training, with a clock on its phases.

`python -m explora.core.bench.cell_process` reads a Cell as JSON on stdin and writes a Measurement on stdout.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, cycle, islice
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from explora.core.bench.accounting import runtime_bytes, tensor_parts
from explora.core.bench.device import Clock, device_peak_bytes, matrix_peak
from explora.core.bench.measurements import FEWEST_STEPS, WARMUP_STEPS, Cell, Measurement, Parts
from explora.core.bench.protocol import answer
from explora.core.config.run_config import TrainRun
from explora.core.data.batching import epoch_batches
from explora.core.estimate.flop import step_flop
from explora.core.estimate.parameters import count as count_parameters
from explora.core.machine.facts import peak_memory_bytes
from explora.core.model.gpt2 import GPT2
from explora.core.runs.assemble import Session, open_for_training
from explora.core.runtime.resolve import DTYPES, resolve_runtime
from explora.core.tasks.contract import Batch, Example, Task
from explora.core.training.loop import Training

NO_CHECKPOINT = Path("no-such-folder")


class _ClockedTask:
    """A task with a clock on its batches and its loss; all else is the task's own."""

    def __init__(self, task: Task, clock: Clock) -> None:
        self.task, self.clock = task, clock
        self.batch: Batch | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def collate(self, examples: Sequence[Example], epoch: int) -> Batch:
        """Make the batch, and remember it."""
        with self.clock.phase("collate"):
            self.batch = self.task.collate(examples, epoch)
        return self.batch

    def loss(self, model: GPT2, batch: Batch) -> Tensor:
        """Compute the loss."""
        with self.clock.phase("forward"):
            return self.task.loss(model, batch)


class ClockedTraining(Training):
    """The training loop itself, step by step, that counts what it does; never evaluates, never saves."""

    def __init__(self, session: Session, run: TrainRun, examples: Sequence[Example]) -> None:
        self.clock = Clock(session.model.device)
        self.clocked = _ClockedTask(session.task, self.clock)
        super().__init__(session.model, cast(Task, self.clocked), run, examples, (), NO_CHECKPOINT)
        self.batches = endless_batches(self.lengths, run)
        self.rows = hashlib.sha256()
        self.restart()

    def restart(self) -> None:
        """Forget the clock and the counts."""
        self.clock.seconds.clear()
        self.taken = self.examples_seen = self.tokens = 0
        self.flop = 0.0

    def step(self) -> float:
        """Take the next step and return its loss."""
        self.progress.epoch, rows = next(self.batches)
        with self.clock.phase("step"):
            done = self.take_step(rows)
        batch = self.clocked.batch
        assert batch is not None
        self.rows.update(batch.input_ids.numpy().tobytes())
        self.taken += 1
        self.examples_seen += len(rows)
        self.tokens += batch.tokens
        head_tokens = batch.weight if batch.targets.dim() == 2 else 0
        self.flop += step_flop(self.model.shape, self.run.method, batch.tokens, head_tokens)
        return done.loss

    def repeat_longest(self) -> None:
        """Take the step with the longest batch, the first of all, once more; nothing is counted."""
        self.progress.epoch, rows = next(endless_batches(self.lengths, self.run))
        self.take_step(rows)

    def _update(self) -> float:
        with self.clock.phase("optimizer"):
            return super()._update()


def endless_batches(lengths: Sequence[int], run: TrainRun) -> Iterator[tuple[int, list[int]]]:
    """Yield epoch and row numbers of batch after batch, as the training of `run` would; the longest first."""
    for epoch in count():
        for rows in epoch_batches(lengths, run.training.batch_size, run.training.seed, epoch):
            yield epoch, rows


def filled(example: Example, length: int | None) -> Example:
    """Return the example with its token ids repeated or cut to `length`; for timing, not for learning.

    What has lines keeps at least one, if only by its end.
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
    session, train, _ = open_for_training(run)
    return session, run, [filled(example, cell.length) for example in train.examples]


def measure(request: Mapping[str, Any]) -> dict[str, Any]:
    """Warm up, time the steps, and return the Measurement as JSON data."""
    baseline, cell = peak_memory_bytes(), Cell.from_json(request)
    session, run, examples = open_cell(cell)
    training = ClockedTraining(session, run, examples)
    started = time.perf_counter()
    losses = [training.step() for _ in range(WARMUP_STEPS)]
    training.restart()
    while not _enough(cell, training.taken, time.perf_counter() - started):
        training.step()
    device, seconds, sizes = training.model.device, dict(training.clock.seconds), _sizes(session)
    peak = device_peak_bytes(device)
    runtime = runtime_bytes(training.model, training.optimizers)
    tensors = tensor_parts(training.model, training.optimizers, training.clock, training.repeat_longest)
    return Measurement(
        steps=training.taken,
        examples=training.examples_seen,
        tokens=training.tokens,
        seconds=seconds["step"],
        forward=seconds["forward"],
        backward=seconds["step"] - seconds["forward"] - seconds["optimizer"] - seconds["collate"],
        optimizer=seconds["optimizer"],
        flop=training.flop,
        peak_memory_bytes=peak,
        baseline_memory_bytes=baseline,
        parts=Parts(runtime=runtime, **tensors),
        matrix_peak=matrix_peak(DTYPES[run.runtime.amp], device),
        **sizes,
        first_loss=losses[0],
        rows=training.rows.hexdigest(),
    ).to_json()


def _enough(cell: Cell, steps: int, seconds: float) -> bool:
    if cell.steps is not None:
        return steps >= cell.steps
    return steps >= FEWEST_STEPS and seconds >= cell.seconds


def _sizes(session: Session) -> dict[str, int]:
    """Return the parameters that receive gradients, those of the base, and the bytes of what is saved."""
    assert session.header is not None
    model = session.model
    classes = 0 if model.score is None else model.score.out_features
    counted = count_parameters(model.shape, session.method, classes, session.header.to_json())
    return {
        "trainable": sum(value.numel() for value in model.parameters() if value.requires_grad),
        "total": counted.total,
        "checkpoint_bytes": counted.adapter_bytes,
    }


if __name__ == "__main__":
    answer(measure)
