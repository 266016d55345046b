"""State of a run folder: empty, a run (pending, unfinished or finished), or other files.

A run that replaces another one trains beside it, in `.NAME.new`, until it has weights to keep. Then it
replaces the old run. A link stands for the folder that it points to.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from explora.core.config.run_config import TrainRun
from explora.core.files import remove_folder, settle_folder
from explora.core.runs.paths import check_utf8, read_by
from explora.core.runs.record import METRICS_FILE, RunRecord, read_record
from explora.errors import AdapterError, UsageError


class Holds(Enum):
    """Content of a run folder."""

    NOTHING = "nothing: it is new or empty"
    PENDING = "a replacement that has no weights to keep yet; the old run may still be there"
    UNFINISHED = "a run that can be resumed"
    FINISHED = "a run with a result"
    OTHER = "something that is not a run"


@dataclass(frozen=True, kw_only=True)
class Found:
    """Content of a run folder, its real location, `place`, and the record if it is a run."""

    holds: Holds
    place: Path
    record: RunRecord | None = None


def look_into(folder: Path) -> Found:
    """Return the content of a run folder. A pending replacement takes precedence over the old run.

    Raises UsageError for a file, and AdapterError for a damaged record.
    """
    target = real_folder(folder)
    pending = pending_folder(target)
    if (record := read_record(pending)) is not None:
        return Found(holds=Holds.PENDING, place=pending, record=record)
    if not target.exists():
        return Found(holds=Holds.NOTHING, place=target)
    if not target.is_dir():
        raise UsageError(f"{folder} is a file", "name a folder for the run: -o FOLDER")
    if (record := read_record(target)) is not None:
        return Found(
            holds=Holds.FINISHED if record.finished else Holds.UNFINISHED, place=target, record=record
        )
    return Found(holds=Holds.OTHER if any(target.iterdir()) else Holds.NOTHING, place=target)


def real_folder(folder: Path) -> Path:
    """Return the folder that a link points to, an absolute path for `.` and `..`, else `folder` unchanged."""
    return folder.resolve() if folder.is_symlink() or folder.name in ("", "..") else folder


def pending_folder(target: Path) -> Path:
    """Return the folder in which the replacement of a run trains at first."""
    return target.with_name(f".{target.name}.new")


def prepare_place(run: TrainRun, folder: Path, *, replace: bool) -> Path:
    """Return the folder in which a run trains: with `replace`, one beside the existing folder.

    The paths of the run are absolute. Raises UsageError for paths that cannot be used.
    """
    check_utf8(run, folder.resolve())
    settle_folder(real_folder(folder))
    found = _look_before_start(folder, to_replace=replace)
    if found.holds is not Holds.PENDING:
        discard_pending(folder)  # a killed process may have left one without a record
    if not replace or found.holds is Holds.NOTHING:
        return found.place
    _check_apart(run, folder)
    return pending_folder(real_folder(folder))


def discard_pending(folder: Path) -> None:
    """Remove the replacement of a run that never had weights to keep, if there is one."""
    remove_folder(pending_folder(real_folder(folder)))


def recorded_run(folder: Path) -> RunRecord | None:
    """Return the record of the run in a folder, or None if the folder is empty.

    Raises UsageError if the folder has other files.
    """
    found = look_into(folder)
    if found.holds is Holds.OTHER:
        raise UsageError(f"{folder} is not a run folder: it has other files", "choose another folder: -o")
    return found.record


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Raise UsageError unless a new run may start in a folder.

    It may if the folder is new or empty, or, with `overwrite`, if it is a run folder.
    """
    found = _look_before_start(folder, to_replace=overwrite)
    if found.holds is Holds.NOTHING:
        return
    if not overwrite:
        raise UsageError(
            f"{folder} is not empty",
            f"continue it with --resume, replace it with --overwrite, or choose another: -o {folder}-2",
        )
    if found.holds is Holds.OTHER:
        raise UsageError(
            f"{folder} is not a run folder, so --overwrite does not replace it", "choose another: -o"
        )
    if folder.is_mount():
        raise UsageError(
            f"{folder} is a mount point and cannot be replaced", f"choose a folder in it: -o {folder}/run"
        )


def _look_before_start(folder: Path, *, to_replace: bool) -> Found:
    """Look into a folder; a run with a damaged record can be replaced like one that is unfinished."""
    try:
        return look_into(folder)
    except AdapterError:
        place = real_folder(folder)
        if not to_replace or not (place / METRICS_FILE).is_file():
            raise
        return Found(holds=Holds.UNFINISHED, place=place)


def _check_apart(run: TrainRun, folder: Path) -> None:
    """Raise UsageError if a folder to replace contains the current directory or an input of the run."""
    target = folder.resolve()
    if target in (Path.cwd(), *Path.cwd().parents):
        raise UsageError(
            f"{folder} contains the current directory and cannot be replaced", "cd to another folder"
        )
    for path in map(Path, filter(None, read_by(run))):
        is_there = path.is_absolute() and path.exists()  # otherwise it names a base or a data set
        if is_there and target in (path.resolve(), *path.resolve().parents):
            raise UsageError(
                f"{folder} contains {path}, which the new run reads", "choose another folder: -o"
            )
