"""Warn before a run whose settings promise little: few optimizer steps, or a high rank for few rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from explora import console
from explora.quantities import counted

if TYPE_CHECKING:
    from explora.core.runs.running import Running

FEW_STEPS = 50  # optimizer steps
HIGH_RANK, FEW_ROWS = 16, 1000


def warn_of_weak_settings(running: Running) -> None:
    """Warn of few optimizer steps, unless their number or the time was chosen, and of a high rank."""
    training, steps = running.run.training, running.training.steps
    if steps < FEW_STEPS and training.max_steps is None and training.max_minutes is None:
        console.warn(
            f"this run has {counted(steps, 'optimizer step')}, which may be too few to learn much: "
            f"raise --epochs (now {training.epochs}), or lower --batch-size (now {training.batch_size})"
        )
    rank, rows = getattr(running.run.method, "rank", 0), len(running.train.examples)
    if rank >= HIGH_RANK and rows < FEW_ROWS:
        console.warn(
            f"rank {rank} is high for {counted(rows, 'training row')}: a large adapter may memorise them. "
            "Compare it with lower ranks: --rank 4,8"
        )
