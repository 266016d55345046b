"""Train one cell after the other in one process, and report every step, score and end."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from explora.core.config.run_config import TrainRun
from explora.core.machine.facts import reset_peak_memory
from explora.core.machine.malloc import return_freed_memory
from explora.core.runs.assemble import Splits, load_splits
from explora.core.runs.events import Completed, RunEvent
from explora.core.runs.record import read_record
from explora.core.runs.signals import Signals
from explora.core.runs.train import Running, start_run
from explora.core.runtime.resolve import resolve_runtime
from explora.core.tasks.contract import Task
from explora.core.training.events import EvalDone, EvalStarted, StepDone
from explora.errors import ExploraError, Interrupted

Tell = Callable[..., None]  # tell(event, **facts): facts are plain JSON


class SharedData:
    """Load the data of the last cell once, for all cells in a row that read the same."""

    def __init__(self) -> None:
        self._reads: Any = None
        self._splits: Splits | None = None
        self._labels: tuple[str, ...] = ()

    def __call__(self, run: TrainRun, task: Task) -> Splits:
        """Return the train and dev splits of a run, and teach the task its labels. Raises DataError."""
        seed = run.training.seed  # it may choose the dev rows
        reads = (run.task, run.model, run.tokenizer, run.from_scratch, run.encoding, run.data, seed)
        if self._splits is None or reads != self._reads:
            self._splits = None  # two data sets at once may not fit into memory
            self._splits, self._reads, self._labels = load_splits(run, task), reads, task.labels
        task.labels = self._labels
        return self._splits


def train_cell(run: TrainRun, folder: Path, data: SharedData, tell: Tell) -> bool:
    """Train a cell, or resume it, and tell how it ended; return whether this process may train another.

    An expected failure is told as well. Raises Interrupted after a signal, with the state saved and told.
    """
    try:
        result = _train(run, folder, data, tell)
    except Interrupted:
        raise
    except ExploraError as error:
        tell("failed", message=error.message, details=f"hint: {error.hint}" if error.hint else "")
    except BrokenPipeError:
        raise Interrupted(0) from None
    except Exception as error:  # out of memory, or a bug: neither may stop the other cells
        tell("failed", message=_reason(error), details=traceback.format_exc())
        return False
    else:
        tell("finished", result=result)
    return forget_cell()


def forget_cell() -> bool:
    """Free the memory of a cell and start its peak again; False where the system cannot (only Linux can)."""
    gc.collect()
    return_freed_memory()
    return reset_peak_memory()


def _reason(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    is_memory = isinstance(error, MemoryError) or "memory" in text
    return f"out of memory: {text}" if is_memory else f"{type(error).__name__}: {text}"


def _train(run: TrainRun, folder: Path, data: SharedData, tell: Tell) -> dict[str, Any]:
    """Return the result. The settings of a cell that was started before are those that it recorded."""
    record = read_record(folder)
    started = run if record is None else record.run
    with Signals() as signals:
        signals.at_once = True  # nothing is lost before the first step
        resolved = replace(started, runtime=resolve_runtime(started.runtime))
        running = start_run(resolved, folder, load=data)
        signals.at_once = False
        return _follow(running, signals, tell)


def _follow(running: Running, signals: Signals, tell: Tell) -> dict[str, Any]:
    try:
        for event in running.events():
            if isinstance(event, Completed):
                return event.result.to_json()
            signals.at_once = isinstance(event, EvalStarted)
            _tell_event(event, running, tell)
            signals.check()
    except (Interrupted, BrokenPipeError):
        running.save()
        tell("stopped")
        raise
    raise AssertionError("the last event of a run is Completed")


def _tell_event(event: RunEvent, running: Running, tell: Tell) -> None:
    if isinstance(event, StepDone):
        tell("step", step=event.step, steps=event.steps, seconds=running.training.progress.seconds)
    elif isinstance(event, EvalDone):
        tell("score", step=event.step, score=event.score)
