"""The expected failures of explora, as a tree of exceptions.

    ExploraError            exit 1: an expected failure, with a one-line message and a hint
    ├── UsageError          exit 2: the command or call itself is wrong (an option, a combination, a name)
    ├── DataError           a data file or a row is unusable; has file, line and column
    ├── WeightsError        a base model is missing, unreadable or misshapen
    ├── AdapterError        an adapter or run folder does not fit
    ├── CheckpointError     a resume state is unreadable, or of other settings
    ├── ProcessError        a process that trains together with this one has ended or does not answer
    ├── IdentityError       base, tokenizer or data differ from those of the recorded run
    ├── InUseError          a folder belongs to another process
    ├── SelfTestError       this installation computes wrong results
    ├── TrainingError       training cannot continue (a non-finite loss, no memory)
    ├── WriteError          a file cannot be written; has the file and the system's reason
    └── Interrupted         exit 130 (Ctrl-C) or 143 (SIGTERM), after saving

Any other exception that reaches the user is a bug: traceback, exit 70.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ExploraError(Exception):
    """An expected failure: `message` describes what failed and where, `hint` what to do."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(ExploraError):
    """The command or call itself is wrong."""

    exit_code = 2


class DataError(ExploraError):
    """A data file or one of its rows is unusable; `line` is 1-based, 0 for the whole file."""

    def __init__(
        self, message: str, hint: str = "", *, file: str = "", line: int = 0, column: str = ""
    ) -> None:
        where = ":".join(str(part) for part in (file, line) if part)
        what = f"column {column}: {message}" if column else message
        super().__init__(f"{where}: {what}" if where else what, hint)
        self.file, self.line, self.column = file, line, column


class WeightsError(ExploraError):
    """A base model is missing, unreadable or misshapen."""


class AdapterError(ExploraError):
    """An adapter or run folder does not fit what it is used for."""


class CheckpointError(ExploraError):
    """A resume state is unreadable or does not fit the run."""


class IdentityError(ExploraError):
    """The base, the tokenizer or the data differs from that of the recorded run."""


class InUseError(ExploraError):
    """A folder belongs to another process."""


class TrainingError(ExploraError):
    """Training cannot continue."""


class ProcessError(ExploraError):
    """A process that trains together with this one has ended or does not answer."""


class SelfTestError(ExploraError):
    """This installation computes wrong results."""


class WriteError(ExploraError):
    """A file cannot be written; `reason` comes from the system. The old content of the file still exists."""

    def __init__(self, file: str, reason: str, hint: str = "") -> None:
        super().__init__(f"{file} cannot be written: {reason}", hint)
        self.file, self.reason = file, reason


class Interrupted(ExploraError):
    """A signal has interrupted the program."""

    def __init__(self, signal_number: int, message: str = "interrupted", hint: str = "") -> None:
        super().__init__(message, hint)
        self.exit_code = 128 + signal_number


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the most similar of `known`, ignoring case; None if there is no similar one."""
    folded = {each.casefold(): each for each in known}
    found = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
    return folded[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?` for the nearest of `known`, or an empty string."""
    found = nearest(name, known)
    return "" if found is None else f"; did you mean {found}?"
