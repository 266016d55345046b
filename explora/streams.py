"""The standard streams: prepared at the start, written by the leading process alone, safe to close.

Of several processes that torchrun started, only the leading one writes; an error may come from any.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from explora.core.machine.launch import rank
from explora.errors import WriteError

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def prepare() -> None:
    """Set the encoding: UTF-8 except on a terminal, which has its own; encoding errors become escapes.

    A stream that was closed before the start discards what is written to it.
    """
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


def is_terminal(stream: TextIO) -> bool:
    """Return whether a stream may get colours and a moving bar."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def clean(text: str) -> str:
    r"""Return `text` with control characters escaped, such as \x1b for ESC, except newline and tab."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def styled(text: str, style: str, stream: TextIO) -> str:
    """Return `text`, cleaned for a terminal; on a colour terminal in a style, an ANSI code such as `1`."""
    shown = clean(text) if stream.isatty() else text
    return f"\x1b[{style}m{shown}\x1b[0m" if style and is_terminal(stream) else shown


def write_stdout(text: str) -> None:
    """Write a part of the result. Raises WriteError, and BrokenPipeError if the pipe is closed."""
    if rank():
        return
    with _as_write_error():
        sys.stdout.write(text)
        sys.stdout.flush()


def flush_stdout() -> None:
    """Write what is left of the result. Raises WriteError."""
    with _as_write_error():
        sys.stdout.flush()


@contextmanager
def _as_write_error() -> Iterator[None]:
    """Turn a failure of stdout, such as a full disk behind `>`, into a WriteError."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        abandon_closed()
        hint = "send the result to another place"
        raise WriteError("standard output", error.strerror or str(error), hint) from None


def write_stderr(text: str, *, from_any_process: bool = False) -> None:
    """Write what is not the result. A failure stops nothing, unless the pipe is closed."""
    if rank() and not from_any_process:
        return
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except BrokenPipeError:
        raise
    except OSError:
        abandon_closed()


def abandon_closed() -> None:
    """Point a standard stream that cannot be written at /dev/null, so that the exit writes no error."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
