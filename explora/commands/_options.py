"""Declare, once each, the arguments and options that several commands share, other than settings of a run."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from explora import console
from explora.commands._settings import completion
from explora.core.config.registry import TASKS, task_row


def check_task(task: str) -> str:
    """Return `task`. Raises UsageError for a name that the registry does not have."""
    task_row(task)
    return task


def _hush(quiet: bool) -> bool:
    """Make --quiet work in every command that declares it."""
    console.set_quiet(quiet)
    return quiet


_output = partial(typer.Option, rich_help_panel="Output", show_default=False)
_task = partial(
    typer.Argument,
    metavar="TASK",
    callback=check_task,
    autocompletion=completion(tuple(TASKS)),
    show_default=False,
)

USUAL_TASK = "paraphrase"
Task = Annotated[str, _task(help=f"Task: {', '.join(TASKS)}.")]
OptionalTask = Annotated[str, _task(help=f"Task: {', '.join(TASKS)} (default: {USUAL_TASK}).")]

Run = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN",
        show_default=False,
        help="Run folder, PEFT adapter or model folder (default: runs/TASK if it exists, else the base).",
    ),
]

Runs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RUN...",
        show_default=False,
        help="Run folder, PEFT adapter, model folder or base. Several runs are ranked "
        "(default: runs/TASK if it exists, else the base).",
    ),
]

Against = Annotated[
    str | None,
    typer.Option(
        "--against",
        metavar="RUN",
        rich_help_panel="Comparison",
        help="Run folder, PEFT adapter or base to compare with on the same rows (default: no comparison).",
    ),
]

SEED = 11711
Seed = Annotated[
    int,
    typer.Option(
        "--seed",
        metavar="N",
        min=0,
        rich_help_panel="Sampling",
        show_default=False,
        help=f"Random seed; the same seed gives the same text (default: {SEED}).",
    ),
]

Output = Annotated[
    Path | None,
    _output("--output", "-o", metavar="FOLDER", help="Folder for the run (default: runs/TASK)."),
]
Overwrite = Annotated[bool, _output("--overwrite", metavar="", help="Replace what the folder holds.")]
Resume = Annotated[
    bool,
    _output("--resume", metavar="", help="Continue the run in the folder, or start it if there is none."),
]
Config = Annotated[
    Path | None,
    _output(
        "--config",
        "-c",
        metavar="run.json",
        help="Repeat the run that this file records; options override its settings (default: a new run).",
    ),
]
DryRun = Annotated[
    bool,
    _output(
        "--dry-run",
        metavar="",
        help="Check the data, show the settings and the trained parameters, then stop.",
    ),
]
Json = Annotated[bool, _output("--json", metavar="", help="Write the result to stdout as JSON.")]
Quiet = Annotated[bool, _output("--quiet", "-q", metavar="", callback=_hush, help="Hide progress and notes.")]
