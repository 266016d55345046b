"""Show a sweep in progress: a live table on a terminal, a line for each cell elsewhere."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from explora import console
from explora.core.sweeps.outcomes import State
from explora.quantities import duration

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

    from explora.core.sweeps.jobs import Report
    from explora.core.sweeps.run import CellProgress, Sweep

Show = Callable[["CellProgress", "Report"], None]
OTHER_LINES = 6  # of a terminal, beside the rows of the table


@contextmanager
def following(opened: Sweep, *, json: bool) -> Iterator[Show]:
    """Yield the function that shows a report about a cell after the sweep has recorded it.

    With `json`, objects are written meanwhile: a table would move between them on the same terminal.
    """
    if not console.shows_progress() or (json and sys.stdout.isatty()):
        yield lambda progress, report: _write_line(opened, progress, report)
        return
    with _live_table(opened):
        yield lambda progress, report: None
    for progress in opened.with_state(State.FAILED):
        _warn_of_failure(progress)


def _live_table(opened: Sweep) -> Live:
    from rich.console import Console
    from rich.live import Live

    return Live(
        console=Console(file=sys.stderr),
        get_renderable=lambda: _table(opened),
        refresh_per_second=4,
        redirect_stdout=False,  # else rich would write the JSON objects to stderr
        redirect_stderr=False,
    )


def _write_line(opened: Sweep, progress: CellProgress, report: Report) -> None:
    name = progress.cell.name
    if report.event == "failed":
        _warn_of_failure(progress)
    if report.event == "started":
        console.note(f"{name}: started")
    if report.event in ("finished", "failed"):
        console.note(f"{name}: {_facts(progress)}; {_summary(opened)}")


def _warn_of_failure(progress: CellProgress) -> None:
    console.warn(f"{progress.cell.name} failed: {progress.outcome.error}")


def _facts(progress: CellProgress) -> str:
    score = "no dev score" if progress.score is None else f"dev score {progress.score:.4f}"
    return f"{progress.outcome.state}, step {progress.step:,}, {score}, {duration(progress.seconds)}"


def _summary(opened: Sweep) -> str:
    """Return the state in one line: `3 of 12 cells finished, 1 failed, 0:40 left`."""
    finished, failed = (len(opened.with_state(state)) for state in (State.FINISHED, State.FAILED))
    left = opened.seconds_left()
    return (
        f"{finished} of {len(opened.own)} cells finished"
        + (f", {failed} failed" if failed else "")
        + (f", {duration(left)} left" if left else "")
    )


def _table(opened: Sweep) -> Table:
    """Return the cells as a table, no higher than the terminal: those in progress first, then the latest."""
    from rich.table import Table

    table = Table("cell", "state", caption=_summary(opened), box=None)
    for header in ("step", f"dev {opened.metric}", "time"):
        table.add_column(header, justify="right")
    for each in _shown_cells(opened):
        steps = each.steps or each.forecast.steps
        score = each.outcome.dev if each.outcome.dev is not None else each.score
        table.add_row(
            each.cell.name,
            each.outcome.state,
            f"{each.step:,}/{steps:,}" if steps else f"{each.step:,}",
            "" if score is None else f"{score:.4f}",
            duration(each.seconds) if each.seconds else "",
        )
    return table


def _shown_cells(opened: Sweep) -> list[CellProgress]:
    cells = list(opened.own.values())
    room = max(3, shutil.get_terminal_size().lines - OTHER_LINES)
    if len(cells) <= room:
        return cells
    order = (State.RUNNING, State.FAILED, State.WAITING, State.STOPPED, State.FINISHED)
    return sorted(cells, key=lambda each: order.index(each.outcome.state))[:room]
