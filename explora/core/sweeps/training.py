"""Train one cell, and report every step and score and how it ended."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from explora.core.config.run_config import TrainRun
from explora.core.machine.facts import Machine
from explora.core.runs.events import RunEvent
from explora.core.runs.ownership import owning
from explora.core.runs.record import read_record
from explora.core.runs.running import Running
from explora.core.runs.sampler import Sampler, samplers
from explora.core.runs.signals import Signals, train_to_end
from explora.core.runs.train import start_run
from explora.core.runtime.resolve import with_resolved_runtime
from explora.core.training.events import EvalDone, StepDone
from explora.errors import ExploraError, Interrupted

Tell = Callable[..., None]  # tell(event, **facts): the facts are plain JSON


def train_cell(
    run: TrainRun, folder: Path, tell: Tell, *, with_samples: bool = False, machine: Machine | None = None
) -> None:
    """Train a cell, or resume it. Tell how it ended: "finished", or "failed" with the reason.

    With `with_samples`, a run that writes text records samples (`runs.sampler`). `machine` is the description
    that the run records, by default that of this process. Raises Interrupted after a signal, once the state
    is saved and "stopped" is told.
    """
    try:
        _train(run, folder, tell, with_samples=with_samples, machine=machine)
    except Interrupted:
        raise
    except ExploraError as error:
        tell("failed", message=error.message, details=f"hint: {error.hint}" if error.hint else "")
    except Exception as error:  # out of memory, or a bug: neither may stop the other cells
        tell("failed", message=_reason(error), details=traceback.format_exc())
    else:
        tell("finished")


def _reason(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    if isinstance(error, MemoryError) or "memory" in text:
        return f"out of memory (lower --batch-size, or use --grad-checkpoint): {text}"
    return f"{type(error).__name__}: {text}"


def _train(run: TrainRun, folder: Path, tell: Tell, *, with_samples: bool, machine: Machine | None) -> None:
    """Train to the end. The settings of a cell that was started before are those that it recorded."""
    record = read_record(folder)
    started = run if record is None else record.run
    # A cluster may send SIGTERM to every process, and our parent sends one.
    with owning(folder), Signals(once=True) as signals:
        signals.at_once = True  # before the first step, nothing can be lost
        resolved = with_resolved_runtime(started)
        running = start_run(resolved, folder, machine=machine)
        signals.at_once = False
        _follow(running, signals, tell, samplers(running) if with_samples else ())


def _follow(running: Running, signals: Signals, tell: Tell, observers: Sequence[Sampler]) -> None:
    def see(event: RunEvent) -> None:
        _tell_event(event, running, tell)
        for observe in observers:
            observe(event)

    try:
        train_to_end(running, signals, see)
    except Interrupted:
        tell("stopped")
        raise


def _tell_event(event: RunEvent, running: Running, tell: Tell) -> None:
    if isinstance(event, StepDone):
        tell("step", step=event.step, steps=event.steps, seconds=running.training.progress.seconds)
    elif isinstance(event, EvalDone):
        tell("score", step=event.step, score=event.score)
