"""Number of steps that fit into a time limit, measured by a rehearsal of the first steps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from explora.core.data.batching import epoch_batches, in_length_order
from explora.core.training.loop import Training
from explora.core.training.optimizers import make_optimizers
from explora.errors import TrainingError

WARMUP_STEPS = 2  # not timed: the first steps load kernels, and the first one has the longest batch
FEWEST_STEPS = 5
SHARE = 0.03  # share of the remaining time for the rehearsal
EVALUATED_BATCHES = 4
MARGIN = 0.98  # share of the time to plan for: machines slow down more often than they speed up


@dataclass(frozen=True, kw_only=True)
class TimeBudget:
    """The number of steps that fit, and the seconds needed after the last one."""

    steps: int
    closing_seconds: float


def fit_steps(training: Training, seconds: float) -> TimeBudget:
    """Return how many steps, with their evaluations, fit into `seconds` on this machine.

    Takes a few steps as a rehearsal and then restores the training. Raises TrainingError if too few steps
    fit.
    """
    started = time.monotonic()
    with _rehearsing(training):
        step = _step_seconds(training, SHARE * seconds)
        evaluation = _evaluation_seconds(training)
    left = MARGIN * seconds - (time.monotonic() - started)
    step, evaluation, left = training.processes.decide((step, evaluation, left))
    every = training.run.training.eval_every or training.steps_per_epoch
    closing = 2 * evaluation  # one after the last step, and one of the best adapter at the end
    steps = int((left - closing) / (step + evaluation / every))
    if steps < FEWEST_STEPS:
        missing = FEWEST_STEPS * (step + evaluation / every) + closing - left
        raise TrainingError(
            f"the time is too short: a step takes about {step:.2g} s here, a dev score {evaluation:.2g} s, "
            f"and {max(0.0, left):.0f} s are left after the start",
            f"give {missing / 60 + 0.1:.1f} minutes more, or a smaller dev set: --dev FILE",
        )
    return TimeBudget(steps=steps, closing_seconds=closing)


@contextmanager
def _rehearsing(training: Training) -> Iterator[None]:
    """Inside this context, steps take their usual time and change nothing.

    The learning rate is zero. Optimizers, progress and random numbers are restored at the end.
    """
    before = training.learning_rate, training.optimizers, training.scaler, training.progress
    training.learning_rate = 0.0
    training.optimizers = make_optimizers(training.model, training.run.method, training.run.optimizer)
    training.scaler = training.new_scaler()
    training.progress = replace(training.progress)
    try:
        with torch.random.fork_rng():
            yield
    finally:
        training.learning_rate, training.optimizers, training.scaler, training.progress = before


def _step_seconds(training: Training, seconds: float) -> float:
    """Return the mean time per step in seconds, over as many steps as fit into `seconds`."""
    batches = epoch_batches(training.lengths, training.examples_per_step, training.run.training.seed, epoch=0)
    started, taken = time.monotonic(), 0
    for taken, rows in enumerate(batches, start=1 - WARMUP_STEPS):
        training.take_step(rows, epoch=0)
        if taken == 0:
            started = time.monotonic()
        if training.processes.decide(taken >= FEWEST_STEPS and time.monotonic() - started >= seconds):
            break
    return (time.monotonic() - started) / max(1, taken)


def _evaluation_seconds(training: Training) -> float:
    """Estimate the time of a dev score from a few batches, spread over the lengths."""
    size = 2 * training.run.training.batch_size
    batches = list(in_length_order([len(example.ids) for example in training.dev], size))
    chosen = batches[:: max(1, len(batches) // EVALUATED_BATCHES)]
    examples = [training.dev[row] for batch in chosen for row in batch]
    training.model.eval()
    started = time.monotonic()
    training.task.dev_score(training.model, examples, size)
    tokens = sum(len(example.ids) for example in training.dev)
    return (time.monotonic() - started) * tokens / sum(len(example.ids) for example in examples)
