"""A whole sweep: its plan, the existing content of its folders, and the training of the remaining cells."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from explora.core.config.registry import load_implementation, task_row
from explora.core.machine.malloc import return_freed_memory
from explora.core.runs.paths import with_absolute_paths
from explora.core.runtime.resolve import resolve_runtime
from explora.core.sweeps.cells import Cell
from explora.core.sweeps.jobs import Jobs, Order, Report
from explora.core.sweeps.outcomes import (
    Outcome,
    State,
    forget_failure,
    read_outcome,
    record_failure,
)
from explora.core.sweeps.plan import Plan, adopt, publish_plan, read_plan
from explora.core.sweeps.processors import divide_processors, threads_of_job
from explora.core.sweeps.seeds import OverSeeds, over_seeds
from explora.core.sweeps.sharing import Shard, cells_of_shard, longest_first
from explora.core.sweeps.survey import Forecast, survey
from explora.errors import UsageError


@dataclass(kw_only=True)
class CellProgress:
    """A cell of a sweep in progress.

    step, steps: done and planned, including earlier sessions; seconds: of training, across interruptions;
    score: the latest dev score; outcome: its state, result and error.
    """

    cell: Cell
    folder: Path
    forecast: Forecast
    outcome: Outcome
    step: int = 0
    steps: int | None = None
    seconds: float = 0.0
    score: float | None = None


@dataclass(kw_only=True)
class Sweep:
    """A sweep that is ready to run, or has run. `own` are the cells of this shard, by name.

    metric: the dev score by which cells are compared; skipped: messages about bad rows; threads: the number
    for a cell that does not set it; replaces: remove the sweep in the folder first; with_samples: see Order.
    """

    folder: Path
    plan: Plan
    own: dict[str, CellProgress]
    metric: str
    higher_is_better: bool
    skipped: list[str]
    jobs: int
    threads: int
    replaces: bool
    with_samples: bool = False
    _running: Jobs | None = field(default=None, repr=False)

    def with_state(self, *states: State) -> list[CellProgress]:
        """Return the cells in one of these states, in order."""
        return [each for each in self.own.values() if each.outcome.state in states]

    def ranked(self) -> list[CellProgress]:
        """Return the finished cells, from the best dev score to the worst."""
        finished = [each for each in self.with_state(State.FINISHED) if each.outcome.dev is not None]
        return sorted(finished, key=lambda each: each.outcome.dev or 0.0, reverse=self.higher_is_better)

    def over_seeds(self) -> list[OverSeeds]:
        """Return the dev scores of settings with several seeds, from the best mean to the worst."""
        scores = [(each.cell.name, each.cell.varied, each.outcome.dev or 0.0) for each in self.ranked()]
        return sorted(over_seeds(scores), key=lambda group: group.mean, reverse=self.higher_is_better)

    def events(self) -> Iterator[Report]:
        """Train every cell that has not finished, and yield reports. Failures are recorded, not raised.

        Raises UsageError if another sweep has taken the folder in the meantime.
        """
        if self.replaces and self.folder.exists():
            shutil.rmtree(self.folder)
        self.plan = publish_plan(self.folder, self.plan)
        for cell in self.plan.cells:
            if cell.name in self.own:
                self.own[cell.name].cell = cell
        left = [each for each in self.own.values() if each.outcome.state is not State.FINISHED]
        if self.jobs > 1:
            left = [left[place] for place in longest_first([each.forecast.work for each in left])]
        orders = [self._order(each) for each in left]
        for each in left:
            each.outcome = Outcome(state=State.WAITING)
        self._running = Jobs(orders, divide_processors(self.jobs)[: max(1, len(orders))])
        for report in self._running.events():
            self._note(report)
            yield report

    def stop(self) -> None:
        """Let every cell in progress finish its step and save its state. It can then be resumed."""
        if self._running is not None:
            for report in self._running.stop():
                self._note(report)

    def kill(self) -> None:
        """Kill every cell in progress immediately; it can be resumed from its last saved state."""
        if self._running is not None:
            self._running.kill()

    def seconds_of(self, *cells: CellProgress) -> float | None:
        """Estimate the remaining time of some cells in seconds of one job; None before a step is timed."""
        done = sum(_work_done(each) for each in self.own.values())
        seconds = sum(each.seconds for each in self.own.values())
        left = sum(each.forecast.work - _work_done(each) for each in cells)
        return seconds / done * left if done else None

    def seconds_left(self) -> float | None:
        """Estimate the time until the last cell ends; None before the first timed step."""
        seconds = self.seconds_of(*self.with_state(State.WAITING, State.RUNNING))
        return None if seconds is None else seconds / self.jobs

    def _order(self, progress: CellProgress) -> Order:
        runtime = progress.cell.run.runtime
        runtime = replace(runtime, threads=runtime.threads or self.threads)
        run = replace(progress.cell.run, runtime=runtime)
        return Order(name=progress.cell.name, folder=progress.folder, run=run, with_samples=self.with_samples)

    def _note(self, report: Report) -> None:
        """Record the event of a cell, in memory and in its folder."""
        progress, facts = self.own[report.name], report.facts
        if report.event == "started":
            forget_failure(progress.folder)
            progress.outcome = Outcome(state=State.RUNNING)
        elif report.event == "step":
            progress.step, progress.steps, progress.seconds = facts["step"], facts["steps"], facts["seconds"]
        elif report.event == "score":
            progress.score = facts["score"]
        elif report.event == "failed":
            record_failure(progress.folder, facts["message"], facts["details"])
            progress.outcome = Outcome(state=State.FAILED, error=facts["message"])
        elif report.event == "stopped":
            progress.outcome = Outcome(state=State.STOPPED)
        else:
            progress.outcome = read_outcome(progress.folder, progress.cell.run)
            _note_result(progress)


def _work_done(progress: CellProgress) -> float:
    """Return how much of the predicted work a cell has done."""
    if progress.outcome.state is State.FINISHED:
        return progress.forecast.work
    return progress.forecast.work * progress.step / progress.steps if progress.steps else 0.0


def _note_result(progress: CellProgress) -> None:
    result = progress.outcome.result
    if result is not None:
        progress.step = progress.steps = result["steps"]
        progress.seconds, progress.score = result["seconds"], progress.outcome.dev


def open_sweep(
    task: str,
    cells: Sequence[Cell],
    folder: Path,
    *,
    jobs: int = 1,
    shard: Shard | None = None,
    overwrite: bool = False,
    with_samples: bool = False,
) -> Sweep:
    """Prepare a sweep, or its part `shard`, without writing anything.

    Reads the data once, for the forecasts and to report bad rows early. Decisions and results of a sweep in
    the folder are kept, unless `overwrite` starts it again. Raises UsageError if the folder has other
    content, DataError and WeightsError.
    """
    lanes = divide_processors(jobs)
    cells = tuple(_with_absolute_paths(cell) for cell in cells)
    recorded = read_plan(folder)
    if recorded is None and folder.exists():
        _check_empty(folder)
    if recorded is not None and not overwrite:
        cells = adopt(cells, recorded, folder)
    threads = _threads(cells, len(lanes))
    cells = _on_this_machine(cells)
    forecasts, skipped = survey([cell.run for cell in cells])
    return_freed_memory()  # the rows took much memory, and the cells need it
    places = list(range(len(cells)))
    if shard is not None:
        places = cells_of_shard([forecast.work for forecast in forecasts], shard)
    own = [_progress(cells[place], forecasts[place], folder, is_new=overwrite) for place in places]
    implementation = load_implementation(task_row(task).implementation)
    return Sweep(
        folder=folder,
        plan=Plan(task=task, cells=cells),
        own={each.cell.name: each for each in own},
        metric=implementation.metric,
        higher_is_better=implementation.higher_is_better,
        skipped=skipped,
        jobs=jobs,
        threads=threads,
        replaces=overwrite,
        with_samples=with_samples,
    )


def _check_empty(folder: Path) -> None:
    if not folder.is_dir() or any(folder.iterdir()):
        raise UsageError(f"{folder} exists and is not a sweep", f"choose another folder: -o {folder}-2")


def _threads(cells: Sequence[Cell], jobs: int) -> int:
    """Return the number of threads of cells that do not set it; for one job, the number of a single run."""
    free = [cell.run.runtime for cell in cells if cell.run.runtime.threads is None]
    if jobs > 1 or not free:
        return threads_of_job(jobs)
    return resolve_runtime(free[0]).threads or 1


def _on_this_machine(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """Decide device, precision and attention once for all jobs; the number of threads depends on the jobs."""
    resolved = {}
    for runtime in {cell.run.runtime for cell in cells}:
        found = resolve_runtime(replace(runtime, threads=runtime.threads or 1))
        resolved[runtime] = replace(found, threads=runtime.threads)
    return tuple(replace(cell, run=replace(cell.run, runtime=resolved[cell.run.runtime])) for cell in cells)


def _with_absolute_paths(cell: Cell) -> Cell:
    """Make the paths of a cell absolute, so that it can be resumed from any directory."""
    return replace(cell, run=with_absolute_paths(cell.run))


def _progress(cell: Cell, forecast: Forecast, folder: Path, *, is_new: bool) -> CellProgress:
    outcome = Outcome(state=State.WAITING) if is_new else read_outcome(folder / cell.name, cell.run)
    progress = CellProgress(cell=cell, folder=folder / cell.name, forecast=forecast, outcome=outcome)
    _note_result(progress)
    return progress
