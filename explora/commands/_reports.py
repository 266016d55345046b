"""Check the file of --report before the work, and write the report after it."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from explora import console
from explora.commands._output_files import check_writable
from explora.core.reports.writing import SUFFIXES, WITH_PLOTS, write_report
from explora.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from explora.core.reports.document import Report

ReportFile = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="FILE.html|.md|.tex",
        rich_help_panel="Output",
        help="Write a report too; .html has plots and needs the extra explora[report] (default: no report).",
    ),
]


def check_report(file: Path, *, reads: Iterable[object] = (), run_folder: Path | None = None) -> None:
    """Raise UsageError, before the work, if the report cannot be written or would replace data."""
    if file.suffix not in SUFFIXES:
        near = did_you_mean(file.suffix, SUFFIXES)
        raise UsageError(
            f"--report {file}: a report is one of {', '.join(SUFFIXES)}{near}", "--report report.html"
        )
    check_writable("--report", file, reads=reads, run_folder=run_folder)
    if file.suffix == WITH_PLOTS and importlib.util.find_spec("matplotlib") is None:
        raise UsageError("--report with plots needs matplotlib", "pip install 'explora[report]', or FILE.md")


def save_report(file: Path, report: Report) -> None:
    """Write a report, and a note with its file name."""
    write_report(file, report)
    console.note(f"wrote {file}")


def this_command() -> str:
    """Return the command line in a form that can be pasted into a shell."""
    return f"explora {shlex.join(sys.argv[1:])}"
