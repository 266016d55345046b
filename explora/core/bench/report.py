"""A bench as a file: Markdown, or one HTML page that needs nothing else, with plots."""

from __future__ import annotations

import html
import importlib.util
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from explora.core.files import write_atomically
from explora.errors import UsageError

if TYPE_CHECKING:
    from explora.core.bench.run import Result

SUFFIXES = (".md", ".html")
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 0.85rem; }
th, td { padding: 0.2rem 0.6rem; text-align: right; border-bottom: 1px solid #ccc; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
svg { max-width: 100%; height: auto; }
"""


@dataclass(frozen=True, kw_only=True)
class ReportTable:
    """Words in rows and columns."""

    title: str
    header: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


def check_report(file: Path) -> None:
    """Raise UsageError where `file` could not be written later, so that nobody measures in vain."""
    if file.suffix not in SUFFIXES:
        raise UsageError(f"--report {file}: a report is one of {', '.join(SUFFIXES)}", "--report bench.html")
    if file.is_dir():
        raise UsageError(f"--report {file} is a folder", f"--report {file / 'bench.html'}")
    nearest = file if file.exists() else next(folder for folder in file.absolute().parents if folder.exists())
    if not os.access(nearest, os.W_OK) or not (nearest.is_dir() or nearest == file):
        raise UsageError(f"--report {file}: {nearest} cannot be written")
    if file.suffix == ".html" and importlib.util.find_spec("matplotlib") is None:
        raise UsageError("--report with plots needs matplotlib", "pip install 'explora[report]', or FILE.md")


def write_report(file: Path, command: str, tables: Sequence[ReportTable], result: Result) -> None:
    """Write the report in one piece; what was there before is replaced."""
    page = (
        as_html(command, tables, result) if file.suffix == ".html" else as_markdown(command, tables, result)
    )
    write_atomically(file, page)


def as_markdown(command: str, tables: Sequence[ReportTable], result: Result) -> str:
    """Return the verdict, the tables, what went wrong, the machine, and how it was made."""
    parts = ["# Does LoRA pay off here?", "\n".join(f"- {line}" for line in result.verdict)]
    for table in tables:
        parts += [f"## {table.title}", _markdown_table(table)]
    parts += ["## Notes", "\n".join(f"- {line}" for line in notes(command, result))]
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: ReportTable) -> str:
    rule = ["---", *["---:"] * (len(table.header) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (table.header, rule, *table.lines))


def as_html(command: str, tables: Sequence[ReportTable], result: Result) -> str:
    """Return the same as a page, with plots of memory, speed and, where it was measured, learning."""
    from explora.core.bench.plots import plots

    body = ["<h1>Does LoRA pay off here?</h1>", _html_list(result.verdict)]
    body += [f"<h2>{html.escape(title)}</h2>\n{svg}" for title, svg in plots(result.rows)]
    for table in tables:
        body += [f"<h2>{html.escape(table.title)}</h2>", _html_table(table)]
    body += ["<h2>Notes</h2>", _html_list(notes(command, result))]
    head = f'<meta charset="utf-8">\n<title>explora bench</title>\n<style>{STYLE}</style>'
    inside = "\n".join(body)
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{inside}\n</body>\n</html>\n'


def _html_list(lines: Sequence[str]) -> str:
    return "<ul>\n" + "\n".join(f"<li>{html.escape(line)}</li>" for line in lines) + "\n</ul>"


def _html_table(table: ReportTable) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    lines = [line(table.header, "th"), *(line(cells, "td") for cells in table.lines)]
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def legend(result: Result) -> list[str]:
    """Return what the words of the tables mean."""
    first = next(row for row in result.rows if row.spread is not None)
    assert first.matrix_peak
    precision = "fp32" if first.amp == "off" else first.amp
    peak = f"{first.matrix_peak / 1e9:,.0f} GFLOP/s"
    repeats = f"medians of {first.repeats} repeats" if first.repeats > 1 else "measured once"
    return [
        f"{first.steps} timed steps per method, {repeats}; range: the slowest and the fastest repeat.",
        f"of peak: share of the {peak} that a large product in {precision} reaches.",
        "Memory by part, at the moment when the tensors are largest together. runtime: the process without "
        "these tensors, measured. activations: 0 where that moment is not in the backward pass, such as in "
        "the optimizer step. rest: the peak minus the parts; below 0 where the parts, counted in a later "
        "step, are more than the peak.",
    ]


def notes(command: str, result: Result) -> list[str]:
    """Return what a reader needs to judge the figures: words, how they were made, where, and what failed."""
    failed = [f"{row.name}: {row.error}" for row in result.rows if row.error]
    made = f"Made by `{command}` on {result.rows[0].model}."
    return [*legend(result), made, f"Machine: {json.dumps(result.machine)}", *failed]
