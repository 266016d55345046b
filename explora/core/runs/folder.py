"""Which runs may start or resume in a folder."""

from __future__ import annotations

from pathlib import Path

from explora.core.config.run_config import TrainRun
from explora.core.runs.record import read_record
from explora.errors import UsageError


def unfinished_run(folder: Path) -> TrainRun:
    """Return the settings of the run that a folder holds. Raises UsageError if none can be resumed."""
    record = read_record(folder)
    if record is None:
        raise UsageError(f"{folder} holds no run: nothing to resume", "start one: leave --resume out")
    if record.result:
        raise UsageError(f"{folder} is finished: nothing to resume", "train again with --overwrite")
    return record.run


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Raise UsageError unless a new run may start in a folder.

    It may if the folder is new or empty, or, with `overwrite`, if it holds a run.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file", "a run is kept in a folder: -o FOLDER")
    if not any(folder.iterdir()):
        return
    if not overwrite:
        raise UsageError(
            f"{folder} already holds something",
            f"continue it with --resume, replace it with --overwrite, or choose another: -o {folder}-2",
        )
    if read_record(folder) is None:
        raise UsageError(
            f"{folder} is not a run folder, so --overwrite leaves it alone", "choose another: -o"
        )
