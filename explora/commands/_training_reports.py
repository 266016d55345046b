"""Collect the content of the report of `train`, for one run folder or the cells of a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from explora.commands._reports import save_report, this_command
from explora.core.config.registry import load_implementation, task_row
from explora.core.reports.trained_runs import TrainedRun, read_trained_run
from explora.core.reports.training import training_report
from explora.core.runs.record import RunRecord, read_record
from explora.core.sweeps.outcomes import State
from explora.errors import DataError, UsageError, WeightsError

if TYPE_CHECKING:
    from explora.core.estimate.memory import Memory
    from explora.core.sweeps.run import CellProgress, Sweep


def report_run(file: Path, folder: Path) -> None:
    """Write the report of the finished run in a folder."""
    record = _record(folder)
    run = read_trained_run(folder, record, _predict_memory(record))
    _report(file, record.run.task, [run])


def report_sweep(file: Path, opened: Sweep) -> None:
    """Write the report of the cells of a sweep that have finished; none if there are none."""
    runs = [_cell(each) for each in opened.with_state(State.FINISHED)]
    if runs:
        _report(file, opened.plan.task, runs)


def _report(file: Path, task: str, runs: list[TrainedRun]) -> None:
    implementation = load_implementation(task_row(task).implementation)
    metric, higher = implementation.metric, implementation.higher_is_better
    save_report(file, training_report(this_command(), runs, metric, higher_is_better=higher))


def _cell(progress: CellProgress) -> TrainedRun:
    return read_trained_run(
        progress.folder,
        _record(progress.folder),
        progress.forecast.memory,
        name=progress.cell.name,
        varied=progress.cell.varied,
    )


def _record(folder: Path) -> RunRecord:
    record = read_record(folder)
    assert record is not None
    return record


def _predict_memory(record: RunRecord) -> Memory | None:
    """Return the predicted peak by part; None if the data or the base of the run cannot be read any more."""
    from explora.core.sweeps.survey import survey

    try:
        (forecast,), _ = survey([record.run])
    except (DataError, UsageError, WeightsError):
        return None
    return forecast.memory
