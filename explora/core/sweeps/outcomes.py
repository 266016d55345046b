"""State of a cell, from the files in its folder. Importing this module does not load torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from explora.core.config.run_config import TrainRun
from explora.core.files import write_atomically
from explora.core.runs.record import read_best_dev_score, read_record
from explora.errors import UsageError

FAILURE_FILE = "failed.txt"


class State(StrEnum):
    """State of a cell."""

    WAITING = "waiting"
    RUNNING = "running"
    STOPPED = "stopped"  # it can be resumed
    FAILED = "failed"
    FINISHED = "finished"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The state of a cell, its result and best dev score if it has finished, and its error if it failed."""

    state: State
    result: Mapping[str, Any] | None = None
    dev: float | None = None
    error: str | None = None


def read_outcome(folder: Path, run: TrainRun) -> Outcome:
    """Return the outcome from the files in a cell's folder.

    Raises UsageError if the folder has another run.
    """
    record, failure = read_record(folder), folder / FAILURE_FILE
    if record is not None and _as_planned(record.run, run) != run:
        raise UsageError(f"{folder} has another run than the plan", "choose another folder: -o FOLDER")
    if record is not None and record.result:
        return Outcome(state=State.FINISHED, result=record.result, dev=read_best_dev_score(folder))
    if failure.is_file():
        return Outcome(state=State.FAILED, error=failure.read_text(encoding="utf-8").splitlines()[0])
    return Outcome(state=State.WAITING if record is None else State.STOPPED)


def _as_planned(recorded: TrainRun, planned: TrainRun) -> TrainRun:
    """Return a recorded run as it was planned, before threads and fitted steps were decided."""
    training = recorded.training
    if training.max_minutes is not None:
        training = replace(training, max_steps=planned.training.max_steps)
    runtime = replace(recorded.runtime, threads=planned.runtime.threads)
    return replace(recorded, training=training, runtime=runtime)


def record_failure(folder: Path, message: str, details: str) -> None:
    """Write why a cell failed, with the message in the first line, for the next try and for people."""
    first = " ".join(message.splitlines())
    write_atomically(folder / FAILURE_FILE, f"{first}\n{details}".rstrip() + "\n")


def forget_failure(folder: Path) -> None:
    """Remove the record of a failure, before the cell is tried again."""
    (folder / FAILURE_FILE).unlink(missing_ok=True)
