"""Warn before a run that is too short to learn much."""

from __future__ import annotations

from typing import TYPE_CHECKING

from explora import console

if TYPE_CHECKING:
    from explora.core.runs.running import Running

FEW = 50  # optimizer steps


def warn_if_few_steps(running: Running) -> None:
    """Say that a run has few optimizer steps, unless their number or the time was asked for."""
    training, steps = running.run.training, running.training.steps
    if steps >= FEW or training.max_steps is not None or training.max_minutes is not None:
        return
    console.warn(
        f"this run has {steps} optimizer step{'s' if steps > 1 else ''}, which may be too few to learn much: "
        f"raise --epochs (now {training.epochs}), or lower --batch-size (now {training.batch_size})"
    )
