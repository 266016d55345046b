"""Show the result of a training: losses, dev scores, what it took, and the next command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from explora import console
from explora.commands._scores import show_scores, warn_if_trivial
from explora.core.config.registry import load_implementation, task_row
from explora.core.runs.record import read_losses
from explora.quantities import duration, size

if TYPE_CHECKING:
    from explora.core.runs.result import TrainResult


def _metric(task: str) -> str:
    """Return the score by which a task chooses the best step."""
    metric: str = load_implementation(task_row(task).implementation).metric
    return metric


def show_result(folder: Path, result: TrainResult) -> None:
    """Write the losses, the dev scores and what the training took, and the next command."""
    losses = read_losses(folder)
    console.result(f"loss {losses[0]:.3f} {console.sparkline(losses)} {losses[-1]:.3f}")
    show_scores("dev score", result.evaluation)
    warn_if_trivial(_metric(result.task), result.evaluation)
    console.result(
        f"{result.run}: {result.trainable:,} of {result.total:,} parameters trained "
        f"({result.share:.2%}), best at step {result.best_step} of {result.steps}, "
        f"{duration(result.seconds)}, {result.tokens_per_second:,.0f} tokens/s, "
        f"peak memory {size(result.peak_memory_bytes)}"
    )
    console.note(f"next: explora eval {result.task} {result.run}")
