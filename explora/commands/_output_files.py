"""Check the files that a command is going to write, so that no data and no part of a run is lost."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from explora.core.config.registry import TASKS
from explora.errors import UsageError

Predictions = Annotated[
    Path | None,
    typer.Option(
        "--predictions",
        metavar="FILE",
        rich_help_panel="Output",
        help="Write all predictions to this file: as JSON lines if its name ends in .jsonl, else in the "
        "submission format of the CS224N course (default: no file).",
    ),
]

MARKS_OF_A_RUN = ("run.json", "adapter_model.safetensors", "model.safetensors", "config.json")
NAMES_IN_A_RUN = ("README.md", "metrics.jsonl", "samples.jsonl", "merges.txt")
SUFFIXES_IN_A_RUN = (".json", ".safetensors", ".bin")
ELSEWHERE = "name another file"


def check_writable(
    option: str, file: Path, *, reads: Iterable[object] = (), run_folder: Path | None = None
) -> None:
    """Raise UsageError, before the work, if its result cannot be written or would replace other files.

    `reads` are the files, folders and names that the command reads. `run_folder` is the folder that the
    command itself makes. A file that the same option wrote before may be replaced.
    """
    if file == Path("-"):
        raise UsageError(f"{option} names a file", "--json writes to standard output")
    if file.exists() and not (file.is_file() or file.is_dir()):  # a pipe
        return
    folder = next(each for each in file.absolute().parents if each.exists())
    if file.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        what = f"{file} is a folder" if file.is_dir() else f"nothing can be written to {folder}"
        raise UsageError(f"{option}: {what}", "name a file in a folder of your own")
    in_new_run = run_folder is not None and file.absolute().parent == run_folder.absolute()
    if not file.parent.exists() and not in_new_run:
        raise UsageError(f"{option}: there is no folder {file.parent}", f"mkdir -p {file.parent}")
    check_not_read(option, file, reads)
    if (in_new_run or _is_run(file.parent)) and _is_part_of_a_run(file):
        raise UsageError(
            f"{option}: {file} is a file of the run or model in {file.parent}, and would be lost", ELSEWHERE
        )
    if file.exists() and file.suffix in SUFFIXES_IN_A_RUN:
        raise UsageError(f"{option}: {file} exists, and its name is that of settings or weights", ELSEWHERE)


def check_not_read(option: str, file: Path, reads: Iterable[object]) -> None:
    """Raise UsageError if a file to write is among the files, folders and names that a command reads."""
    for source in reads:
        if isinstance(source, (str, Path)) and _is_in(Path(source), file):
            raise UsageError(f"{option}: {file} holds data that this command reads", ELSEWHERE)


def _is_in(source: Path, file: Path) -> bool:
    """Return whether `file` is the data `source`, or a split in that folder."""
    if not file.exists() or not source.exists():
        return False
    if source.is_file():
        return file.samefile(source)
    return file.resolve().parent == source.resolve() and _names_a_split(file.resolve().name)


def _names_a_split(name: str) -> bool:
    own = {each for task in TASKS.values() for names in task.split_files.values() for each in names}
    return name in own or any(split in name.lower() for split in ("train", "dev", "test"))


def _is_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in MARKS_OF_A_RUN)


def _is_part_of_a_run(file: Path) -> bool:
    return file.name in NAMES_IN_A_RUN or file.suffix in SUFFIXES_IN_A_RUN
