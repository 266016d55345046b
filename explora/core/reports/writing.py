"""Write a report to a file: its suffix chooses HTML, Markdown or LaTeX."""

from __future__ import annotations

from pathlib import Path

from explora.core.files import write_atomically
from explora.core.reports.document import Report
from explora.core.reports.latex import as_latex
from explora.core.reports.markdown import as_markdown

SUFFIXES = (".html", ".md", ".tex")
WITH_PLOTS = ".html"


def write_report(file: Path, report: Report) -> None:
    """Write the report atomically; an existing file is replaced."""
    write_atomically(file, _render(file.suffix, report))


def _render(suffix: str, report: Report) -> str:
    if suffix == ".md":
        return as_markdown(report)
    if suffix == ".tex":
        return as_latex(report)
    from explora.core.reports.html_page import as_html

    return as_html(report)
