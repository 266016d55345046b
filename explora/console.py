"""What a person reads: the result (text, JSON or tables) on stdout, notes, warnings and progress on stderr.

Only a colour terminal gets colours and a moving bar; a pipe, a file, NO_COLOR and TERM=dumb get plain
lines. Control characters in text from data or a model are escaped before they reach a terminal.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, Protocol

from explora import streams
from explora.core.machine.launch import rank
from explora.core.reports import sparklines
from explora.core.runs.record import finite
from explora.quantities import duration
from explora.streams import clean, styled

_CLEAR_LINE = "\r\x1b[K"
_RED, _YELLOW, _DIM, _BOLD = "31", "33", "2", "1"
_FIGURE = re.compile(r"[+-]?\d|-$|unknown$")

LEAD = 3.0  # seconds
NARROW = 100  # columns of a terminal below which a bar is short

_quiet = False
_bar_is_drawn = False


def start() -> None:
    """Prepare the streams for a command."""
    set_quiet(False)
    streams.prepare()


def set_quiet(quiet: bool) -> None:
    """With `quiet`, drop notes and progress; warnings, errors and results are still written."""
    global _quiet
    _quiet = quiet


def shows_progress() -> bool:
    """Return whether stderr is a terminal on which something may move."""
    return streams.is_terminal(sys.stderr) and not _quiet


# --- stdout: the result ---------------------------------------------------------------------------


def result(text: str, end: str = "\n") -> None:
    """Write a part of the result; with another `end` than newline, a stream of pieces."""
    streams.write_stdout(styled(text + end, "", sys.stdout))


def result_json(value: Mapping[str, Any]) -> None:
    """Write one JSON object on one line; NaN and infinity, which JSON does not have, become null."""
    result(json.dumps(finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":")))


def result_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, best: int | None = None) -> None:
    """Write aligned columns: figures to the right, the first column and words to the left.

    A colour terminal gets the header in bold, and so the row with the number `best`. A terminal that is too
    narrow gets the first columns that fit, and a note that names the others: put the most important columns
    first.
    """
    lines = [list(header), *(list(row) for row in rows)]
    columns = [_aligned(column, is_first=not at) for at, column in enumerate(zip(*lines, strict=True))]
    fitting = _fitting([len(column[0]) for column in columns]) if sys.stdout.isatty() else len(columns)
    for number, cells in enumerate(zip(*columns[:fitting], strict=True)):
        style = _BOLD if number == 0 or number - 1 == best else ""
        streams.write_stdout(styled("  ".join(cells).rstrip(), style, sys.stdout) + "\n")
    if fitting < len(header):
        note(f"A wider terminal, a pipe or --json also shows: {', '.join(header[fitting:])}")


def _aligned(column: Sequence[str], *, is_first: bool) -> list[str]:
    """Return the cells of a column at equal width: right-aligned if all filled cells begin with figures."""
    width = max(map(len, column))
    has_figures = not is_first and all(_FIGURE.match(cell) for cell in column[1:] if cell)
    return [cell.rjust(width) if has_figures else cell.ljust(width) for cell in column]


def _fitting(widths: Sequence[int]) -> int:
    """Return how many columns fit into the terminal, two spaces between them; at least two."""
    room = shutil.get_terminal_size().columns
    ends = accumulate(width + 2 for width in widths)
    return max(2, sum(end - 2 <= room for end in ends))


# --- stderr: everything else ----------------------------------------------------------------------


def note(text: str) -> None:
    """Write a line that is not the result; --quiet drops it."""
    if not _quiet:
        _write_line(text, _DIM)


def show(text: str) -> None:
    """Write on stderr what a question to the user is about, with --quiet too."""
    _write_line(clean(text))


def warn(text: str) -> None:
    """Write what may be wrong although the work goes on."""
    _write_line(f"warning: {text}", _YELLOW)


def error(message: str, hint: str = "") -> None:
    """Write why the work stopped, and what to do.

    Any process may write an error. The others wait LEAD seconds, so that the leading one is the first:
    torchrun then ends the others, which met the same error.
    """
    if rank():
        time.sleep(LEAD)
        message = f"process {rank()}: {message}"
    _write_line(f"error: {message}", _RED, from_any_process=True)
    if hint:
        _write_line(f"hint: {hint}", from_any_process=True)


def stopped(message: str, hint: str = "") -> None:
    """Report an interruption, and how to resume."""
    _write_line(message, _YELLOW)
    if hint:
        _write_line(f"hint: {hint}")


@contextmanager
def progress(label: str, total: int, done: int = 0) -> Iterator[Advance]:
    """Show the progress of a loop of `total` steps, of which `done` were done before.

    Yields `advance(done, facts)`; `facts` is short text, such as the loss. Its third argument is the total
    where that has changed. A terminal gets a bar, drawn at most ten times a second. Anything else gets a line
    every tenth of the way or every half minute.
    """
    shown = _Progress(label, total, done)
    try:
        yield shown.advance
    finally:
        _end_bar()


class Advance(Protocol):
    """Report the steps done, facts, and the number of all steps where it has changed."""

    def __call__(self, done: int, facts: str = "", total: int | None = None) -> None:
        """Show the progress where the last time was long enough ago."""


class _Progress:
    """The state behind `progress`."""

    def __init__(self, label: str, total: int, done: int) -> None:
        self.label, self.total, self.first = label, max(total, 1), done
        self.started = time.monotonic()
        self.shown_at = -math.inf
        self.shown_tenth = 10 * done // self.total

    def advance(self, done: int, facts: str = "", total: int | None = None) -> None:
        self.total = self.total if total is None else max(total, 1)
        if done <= self.first + 1:  # the first step, with what comes before it, takes longer than the others
            self.started = time.monotonic()
        if _quiet or not self._is_due(done):
            return
        self.shown_at = time.monotonic()
        self.shown_tenth = 10 * done // self.total
        shown = [f"{self.label} {done}/{self.total}", self._time_left(done), facts]
        line = "  ".join(filter(None, shown))
        if streams.is_terminal(sys.stderr):
            _draw_bar(line, done / self.total)
        else:
            _write_line(line)

    def _is_due(self, done: int) -> bool:
        since = time.monotonic() - self.shown_at
        if streams.is_terminal(sys.stderr):
            return since >= 0.1 or done >= self.total
        return since >= 30 or 10 * done // self.total > self.shown_tenth

    def _time_left(self, done: int) -> str:
        steps = done - self.first - 1
        if steps <= 0 or done >= self.total:
            return ""
        seconds = (time.monotonic() - self.started) / steps * (self.total - done)
        return f"{duration(seconds)} left"


def _draw_bar(line: str, share: float) -> None:
    """Draw a bar and as many facts as the terminal has room for; what is not drawn is dropped whole."""
    global _bar_is_drawn
    room = shutil.get_terminal_size().columns - 1
    width = 20 if room >= NARROW else 10
    filled = round(width * min(share, 1.0))
    full, empty = ("━", " ") if _speaks_utf8() else ("#", ".")
    bar = full * filled + empty * (width - filled)
    facts = clean(line).split("  ")
    while len(facts) > 1 and width + 1 + len("  ".join(facts)) > room:
        facts.pop()
    streams.write_stderr(_CLEAR_LINE + f"{bar} {'  '.join(facts)}"[:room])
    _bar_is_drawn = True


def _end_bar() -> None:
    global _bar_is_drawn
    if _bar_is_drawn:
        streams.write_stderr("\n")
        _bar_is_drawn = False


def _write_line(text: str, style: str = "", *, from_any_process: bool = False) -> None:
    global _bar_is_drawn
    before = _CLEAR_LINE if _bar_is_drawn else ""
    line = styled(text, style, sys.stderr)
    streams.write_stderr(f"{before}{line}\n", from_any_process=from_any_process)
    _bar_is_drawn = False


def sparkline(values: Sequence[float]) -> str:
    """Draw values as a row of bars; plain characters where bars do not show."""
    return sparklines.sparkline(values, sparklines.BLOCKS if _speaks_utf8() else "_.-=*#")


def _speaks_utf8() -> bool:
    return (sys.stderr.encoding or "").lower().replace("-", "") == "utf8"
