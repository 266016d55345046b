"""Files that an option names for a command to write."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from explora.errors import UsageError

Predictions = Annotated[
    Path | None,
    typer.Option(
        "--predictions",
        metavar="FILE",
        rich_help_panel="Output",
        help="Write every prediction: .jsonl, or anything else for the CS224N course's submission format.",
    ),
]


def check_writable(option: str, file: Path) -> None:
    """Raise UsageError before the work where its result could not be kept."""
    if file == Path("-"):
        raise UsageError(f"{option} names a file", "--json writes to standard output")
    if file.exists() and not (file.is_file() or file.is_dir()):  # a pipe
        return
    folder = next(each for each in file.absolute().parents if each.exists())
    if file.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        what = f"{file} is a folder" if file.is_dir() else f"nothing can be written to {folder}"
        raise UsageError(f"{option}: {what}", "name a file in a folder of your own")
