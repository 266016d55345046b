"""Let only one process at a time train in a folder, and show all others which process that is.

There are two files beside the folder NAME:

|raw|    .NAME.lock     locked by the operating system as long as the process lives
    .NAME.owner    JSON: the process, its host, when it started, and its command

The lock ends with its process. The owner file also protects a folder that another host shares, where the lock
may not be visible. An owner file that a dead process of this host left behind is ignored.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from explora.core.files import remove_leftovers, write_atomically
from explora.errors import InUseError, UsageError, WriteError

PATIENCE = 1.0  # seconds to wait for the lock, so that its new holder can write the owner file
CLOCK_TOLERANCE = 2.0  # seconds by which the reported start time of a process may vary


@dataclass(frozen=True, kw_only=True)
class Owner:
    """A process that works in a folder. `started` is its start time in seconds since 1970."""

    process: int
    host: str
    started: float
    command: str

    def may_be_alive(self) -> bool:
        """Return whether the process may still run; always true for a process on another host.

        The start time distinguishes it from a later process with the same number.
        """
        if self.host != socket.gethostname():
            return True
        started = _start_time(self.process)
        return started is not None and abs(started - self.started) < CLOCK_TOLERANCE


@contextmanager
def owning(folder: Path) -> Iterator[None]:
    """Own a folder, which need not exist yet, until the context ends. Leftovers of dead owners are removed.

    Parent folders that were created for the lock are removed at the end if they are empty. A link stands for
    the folder that it points to. Raises InUseError if another process owns the folder, and WriteError if no
    lock can be created.
    """
    if not folder.resolve().name:
        raise UsageError(f"{folder} is the root of the file system", "choose a folder in it: -o")
    owner_file = _owner_file(folder)
    made = [parent for parent in owner_file.parents if not parent.exists()]
    with _locked(folder):
        check_unowned(folder)
        for place in (owner_file, *_places(folder)):
            remove_leftovers(place)
        write_atomically(owner_file, json.dumps(asdict(_this_process()), indent=2) + "\n")
        try:
            yield
        finally:
            owner_file.unlink(missing_ok=True)
            with suppress(PermissionError):  # Windows cannot remove an open file
                _lock_file(folder).unlink(missing_ok=True)
            with suppress(OSError):  # a folder that is not empty stays, and so do those above it
                for parent in made:
                    parent.rmdir()


def _locked(folder: Path) -> AbstractContextManager[object]:
    """Lock a folder; the returned context releases the lock."""
    from filelock import FileLock, Timeout  # importing it takes a tenth of a second, too long for --help

    file = _lock_file(folder)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings(action="ignore"):  # it warns where it must lock without flock
            return FileLock(file, thread_local=False).acquire(timeout=PATIENCE)
    except Timeout:
        if not file.exists():  # some file systems, such as /proc, refuse every new file
            raise _no_lock(folder, "no file can be created there") from None
        raise _in_use(folder, _read_owner(folder)) from None
    except OSError as error:
        raise _no_lock(folder, error.strerror or str(error)) from None


def _no_lock(folder: Path, reason: str) -> WriteError:
    return WriteError(
        str(folder),
        f"cannot create a lock in {_lock_file(folder).parent}: {reason}",
        "choose a folder that you may write to: -o FOLDER",
    )


def check_unowned(folder: Path) -> None:
    """Raise InUseError if a process owns a folder, or may own it on another host."""
    owner = _read_owner(folder)
    if owner is not None and owner.may_be_alive():
        raise _in_use(folder, owner)


def _lock_file(folder: Path) -> Path:
    place = folder.resolve()
    return place.with_name(f".{place.name}.lock")


def _places(folder: Path) -> list[Path]:
    """Return the folder, and the folders of its new and old content during a replacement."""
    place = folder.resolve()
    return [place, *(place.with_name(f".{place.name}.{state}") for state in ("new", "old"))]


def _owner_file(folder: Path) -> Path:
    return _lock_file(folder).with_suffix(".owner")


def _this_process() -> Owner:
    return Owner(
        process=os.getpid(),
        host=socket.gethostname(),
        started=_start_time(os.getpid()) or 0.0,
        command=shlex.join([_program(), *sys.argv[1:]]),
    )


def _program() -> str:
    """Return the program's name as a person types it: `python -m explora` becomes `explora`."""
    name = Path(sys.argv[0]).name
    return "explora" if name == "__main__.py" else name


def _start_time(process: int) -> float | None:
    """Return the start time of a process of this host, in seconds since 1970; None if it has ended."""
    import psutil

    try:
        found = psutil.Process(process)
        return None if found.status() == psutil.STATUS_ZOMBIE else float(found.create_time())
    except psutil.NoSuchProcess:
        return None


def _read_owner(folder: Path) -> Owner | None:
    """Return the owner of a folder; None without a valid owner file."""
    try:
        return Owner(**json.loads(_owner_file(folder).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _in_use(folder: Path, owner: Owner | None) -> InUseError:
    """Return the error for a folder in use; `owner` is None if its owner file is not written yet."""
    files = " and ".join(str(file) for file in (_owner_file(folder), _lock_file(folder)) if file.exists())
    if owner is None or not owner.may_be_alive():
        return InUseError(
            f"{folder} is in use by another process",
            f"wait until it ends; if there is no such process, remove {files}",
        )
    since = datetime.fromtimestamp(owner.started).astimezone().isoformat(" ", "seconds")
    message = (
        f"{folder} is in use by process {owner.process} on host {owner.host}, "
        f"started {since} ({owner.command})"
    )
    if owner.host == socket.gethostname():
        stop = f"kill {owner.process}"
        return InUseError(message, f"wait until it ends, stop it ({stop}), or choose another folder: -o")
    return InUseError(message, f"if that process is known to be dead, remove {files}")
