"""The two streams: stdout carries the result (text or JSON), stderr the progress.

Only a colour terminal gets colours and a moving bar; a pipe, a file, NO_COLOR and TERM=dumb get plain
lines. Control characters in text from data or a model are escaped before they reach a terminal.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol, TextIO

from explora.core.reports import sparklines
from explora.core.runs.record import finite
from explora.errors import WriteError

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_CLEAR_LINE = "\r\x1b[K"
_RED, _YELLOW, _DIM = "31", "33", "2"

_quiet = False
_bar_is_drawn = False


def start() -> None:
    """Prepare the streams: UTF-8 wherever no terminal says otherwise, and never an encoding error.

    A stream that was closed before the start takes everything and keeps nothing.
    """
    set_quiet(False)
    _open_closed_descriptors()
    nowhere = Path(os.devnull)
    sys.stdout = sys.stdout or nowhere.open("w", encoding="utf-8")
    sys.stderr = sys.stderr or nowhere.open("w", encoding="utf-8")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            encoding = stream.encoding if stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors="backslashreplace")


def _open_closed_descriptors() -> None:
    """Open /dev/null for each of the descriptors 0 to 2 that is closed.

    Otherwise a file that is opened later gets number 2, and a library writes its warnings into it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def set_quiet(quiet: bool) -> None:
    """With `quiet`, notes and progress are dropped; warnings, errors and results are not."""
    global _quiet
    _quiet = quiet


def is_terminal(stream: TextIO | None = None) -> bool:
    """Whether `stream` (default: stderr) may get colours and a moving bar."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return (stream or sys.stderr).isatty()


def shows_progress() -> bool:
    """Whether stderr is a terminal on which something may move."""
    return is_terminal() and not _quiet


def abandon_closed_streams() -> None:
    """Point a standard stream that cannot be written at nothing, so that the exit stays quiet."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def clean(text: str) -> str:
    r"""Return `text` with control characters escaped, such as \x1b for ESC, except newline and tab."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


# --- stdout: the result ---------------------------------------------------------------------------


def result(text: str, end: str = "\n") -> None:
    """Write a part of the result; with another `end` than newline, a stream of pieces."""
    with _as_write_error():
        sys.stdout.write((clean(text) if sys.stdout.isatty() else text) + end)
        sys.stdout.flush()


def flush() -> None:
    """Write what is left of the result. Raises WriteError where that fails."""
    with _as_write_error():
        sys.stdout.flush()


@contextmanager
def _as_write_error() -> Iterator[None]:
    """Turn the failure of stdout, such as a full disk behind `>`, into a WriteError; a reader may leave."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        abandon_closed_streams()
        hint = "send the result to another place"
        raise WriteError("standard output", error.strerror or str(error), hint) from None


def result_json(value: Mapping[str, Any]) -> None:
    """Write one JSON object on one line; NaN and infinity, which JSON does not have, become null."""
    result(json.dumps(finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":")))


def result_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write aligned columns: the first to the left, the others, mostly numbers, to the right.

    A terminal that is too narrow gets the first columns that fit, and a note that names the others: put the
    most important columns first.
    """
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    fitting = _fitting(widths) if sys.stdout.isatty() else len(widths)
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:fitting], widths[1:fitting], strict=True)]
        result("  ".join(cells).rstrip())
    if fitting < len(header):
        note(f"A wider terminal, a pipe or --json also shows: {', '.join(header[fitting:])}")


def _fitting(widths: Sequence[int]) -> int:
    """Return how many columns fit into the terminal, two spaces between them; at least two."""
    columns = shutil.get_terminal_size().columns
    ends = accumulate(width + 2 for width in widths)
    return max(2, sum(end - 2 <= columns for end in ends))


# --- stderr: everything else ----------------------------------------------------------------------


def note(text: str) -> None:
    """Tell something that is not the result."""
    if not _quiet:
        _write_line(text, _DIM)


def show(text: str) -> None:
    """Show a person what a question is about: on stderr, and with --quiet too."""
    _write_line(clean(text))


def warn(text: str) -> None:
    """Tell what may be wrong though the work goes on."""
    _write_line(f"warning: {text}", _YELLOW)


def error(message: str, hint: str = "") -> None:
    """Tell why the work stopped, and what would be right."""
    _write_line(f"error: {message}", _RED)
    if hint:
        _write_line(f"hint: {hint}")


def stopped(message: str, hint: str = "") -> None:
    """Tell that the work stopped because it was told to, and how it goes on."""
    _write_line(message, _YELLOW)
    if hint:
        _write_line(f"hint: {hint}")


@contextmanager
def progress(label: str, total: int, done: int = 0) -> Iterator[Advance]:
    """Show how far a loop of `total` steps is; `done` of them were done before.

    Yields `advance(done, facts)`; `facts` is short text, such as the loss. A `total` that only turned out
    later is a third argument. A terminal gets a bar, drawn at
    most ten times a second; anything else a line every tenth of the way or every half minute.
    """
    shown = _Progress(label, total, done)
    try:
        yield shown.advance
    finally:
        _end_bar()


class Advance(Protocol):
    """How a loop reports: steps done, facts, and the number of all steps where it has changed."""

    def __call__(self, done: int, facts: str = "", total: int | None = None) -> None:
        """Show it, where it is time to."""


class _Progress:
    """The state behind `progress`."""

    def __init__(self, label: str, total: int, done: int) -> None:
        self.label, self.total, self.first = label, max(total, 1), done
        self.started = time.monotonic()
        self.shown_at = -math.inf
        self.shown_tenth = 10 * done // self.total

    def advance(self, done: int, facts: str = "", total: int | None = None) -> None:
        self.total = self.total if total is None else max(total, 1)
        if done <= self.first + 1:  # the first step and what comes before it tell little of the others
            self.started = time.monotonic()
        if _quiet or not self._is_due(done):
            return
        self.shown_at = time.monotonic()
        self.shown_tenth = 10 * done // self.total
        shown = [f"{self.label} {done}/{self.total}", self._time_left(done), facts]
        line = "  ".join(filter(None, shown))
        if is_terminal():
            _draw_bar(line, done / self.total)
        else:
            _write_line(line)

    def _is_due(self, done: int) -> bool:
        since = time.monotonic() - self.shown_at
        if is_terminal():
            return since >= 0.1 or done >= self.total
        return since >= 30 or 10 * done // self.total > self.shown_tenth

    def _time_left(self, done: int) -> str:
        steps = done - self.first - 1
        if steps <= 0 or done >= self.total:
            return ""
        seconds = (time.monotonic() - self.started) / steps * (self.total - done)
        return f"{duration(seconds)} left"


def _draw_bar(line: str, share: float) -> None:
    global _bar_is_drawn
    filled = round(20 * min(share, 1.0))
    bar = "━" * filled + " " * (20 - filled) if _speaks_utf8() else "#" * filled + "." * (20 - filled)
    width = shutil.get_terminal_size().columns - 1
    _write_progress(_CLEAR_LINE + clean(f"{bar} {line}")[:width])
    _bar_is_drawn = True


def _speaks_utf8() -> bool:
    return (sys.stderr.encoding or "").lower().replace("-", "") == "utf8"


def _end_bar() -> None:
    global _bar_is_drawn
    if _bar_is_drawn:
        _write_progress("\n")
        _bar_is_drawn = False


def _write_line(text: str, colour: str = "") -> None:
    global _bar_is_drawn
    line = clean(text) if sys.stderr.isatty() else text
    if colour and is_terminal():
        line = f"\x1b[{colour}m{line}\x1b[0m"
    _write_progress((_CLEAR_LINE if _bar_is_drawn else "") + line + "\n")
    _bar_is_drawn = False


def _write_progress(text: str) -> None:
    """Write to stderr. The work goes on if that fails, unless the reader has gone."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except BrokenPipeError:
        raise
    except OSError:
        abandon_closed_streams()


# --- numbers for people ---------------------------------------------------------------------------


def duration(seconds: float) -> str:
    """`3:05`, or `1:02:03` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 thread`, `2 threads`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def size(count: float) -> str:
    """Bytes in decimal units: `1.2 MB`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def sparkline(values: Sequence[float]) -> str:
    """Draw values as a row of bars; plain characters where bars do not show."""
    return sparklines.sparkline(values, sparklines.BLOCKS if _speaks_utf8() else "_.-=*#")
