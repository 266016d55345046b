"""Show a run before its first step: its settings, its rows and what may go wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from explora import console
from explora.commands._label_counts import show_label_counts
from explora.commands._memory import warn_if_short
from explora.commands._skipped_rows import show_skipped
from explora.commands._weak_settings import warn_of_weak_settings
from explora.core.config.run_config import TrainRun
from explora.quantities import counted, duration, size

if TYPE_CHECKING:
    from explora.core.runs.running import Running


def show_settings(run: TrainRun, origin: str, processes: int) -> None:
    """Show the most important settings; `origin` is the source of the learning rate."""
    optimizer, training = run.optimizer, run.training
    console.note(
        f"{run.task}: {run.method.description}; learning rate {optimizer.learning_rate:g}{origin}, "
        f"batch {training.batch_size} x {training.accumulate}, seed {training.seed}; "
        f"{run.runtime.device}, {'fp32' if run.runtime.amp == 'off' else run.runtime.amp}, "
        f"{counted(run.runtime.threads or 1, 'thread')}"
        + (f" in each of {processes} processes" if processes > 1 else "")
    )
    if processes > 1:
        console.note("several processes: the feature cache and the prediction of full fine-tuning are off")


def show_start(running: Running) -> None:
    """Show the rows and the length of a run, and warn of what may go wrong."""
    show_skipped(running.skipped, len(running.train.examples) + len(running.dev.examples))
    console.note(
        f"{len(running.train.examples):,} train and {len(running.dev.examples):,} dev examples; "
        f"{running.session.label}; {_length(running)}"
        + (f", resumed after step {running.resumed_at:,}" if running.resumed_at else "")
    )
    show_label_counts(running)
    _show_feature_cache(running)
    warn_if_short(running)
    warn_of_weak_settings(running)


def _length(running: Running) -> str:
    """Return the length of the run in words."""
    training = running.run.training
    if training.max_minutes is not None and training.max_steps is None:
        return f"as many steps as fit into {duration(60 * training.max_minutes)}"
    return f"{running.training.steps:,} steps"


def _show_feature_cache(running: Running) -> None:
    cache = running.training.feature_cache
    if cache is None:
        return
    what = f"the output of the frozen blocks for {len(cache.examples):,} examples ({size(cache.size)})"
    if cache.fits:
        console.note(f"{cache.file} stores {what}")
    elif cache.size > cache.limit:
        console.note(f"{what} is not stored: --feature-cache allows {size(cache.limit)}")
    else:
        console.warn(f"{what} is not stored: the disk has only {size(max(0, cache.free))} left")
