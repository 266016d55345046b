"""Arguments and options that several commands share and that are no settings of a run, each declared once."""

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


_output = partial(typer.Option, rich_help_panel="Output")

Task = Annotated[
    str,
    typer.Argument(
        metavar="TASK",
        callback=check_task,
        autocompletion=completion(tuple(TASKS)),
        help=f"What is learned: {', '.join(TASKS)}.",
    ),
]

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
        help="Run folder, PEFT adapter, model folder or base; several are ranked "
        "(default: runs/TASK if it exists, else the base).",
    ),
]

Against = Annotated[
    str | None,
    typer.Option(
        "--against",
        metavar="RUN",
        rich_help_panel="Comparison",
        help="Run folder, PEFT adapter or base to compare with, on the same rows.",
    ),
]

SEED = 11711
Seed = Annotated[
    int,
    typer.Option(
        "--seed", min=0, rich_help_panel="Sampling", help="Random seed; the same seed gives the same text."
    ),
]

Output = Annotated[
    Path | None,
    _output("--output", "-o", metavar="FOLDER", help="Folder for the result (default: runs/TASK)."),
]
Overwrite = Annotated[bool, _output("--overwrite", metavar="", help="Replace what the folder holds.")]
Resume = Annotated[
    bool, _output("--resume", metavar="", help="Continue the run in the folder; start it if there is none.")
]
Config = Annotated[
    Path | None,
    _output(
        "--config", "-c", metavar="run.json", help="Repeat a recorded run; options override its settings."
    ),
]
DryRun = Annotated[
    bool, _output("--dry-run", metavar="", help="Show the resolved settings and parameter counts, and stop.")
]
Json = Annotated[bool, _output("--json", metavar="", help="Write the result as JSON on stdout.")]
Quiet = Annotated[
    bool, _output("--quiet", "-q", metavar="", callback=_hush, help="Write no progress on stderr.")
]
