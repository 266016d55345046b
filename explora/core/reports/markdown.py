"""A report as Markdown in GitHub's dialect: tables, and sparklines in place of plots."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from explora.core.reports.document import Bars, Block, Curves, Intervals, Listing, Remarks, Report, Table
from explora.core.reports.sparklines import curve_table

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$&])")


def as_markdown(report: Report) -> str:
    """Render a report as Markdown. Bars and intervals are left out, because tables have the same figures."""
    parts = [f"# {_escape(report.title)}", _list(report.lead)]
    for section in report.sections:
        parts += [f"## {_escape(section.heading)}", *(_block(block) for block in section.blocks)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _block(block: Block) -> str:
    match block:
        case Table():
            return _table(block)
        case Listing():
            return f"{_escape(block.title)}\n\n{_fenced(block.text)}"
        case Remarks():
            return _list(block.lines)
        case Curves():
            return _table(curve_table(block))
        case Bars() | Intervals():
            return ""


def _table(table: Table) -> str:
    rule = ["---", *["---:"] * (len(table.header) - 1)]
    body = [
        [_cell(text, is_best=(row, column) in table.best) for column, text in enumerate(line)]
        for row, line in enumerate(table.lines)
    ]
    lines = [[_escape(name) for name in table.header], rule, *body]
    return f"{_escape(table.title)}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str, *, is_best: bool) -> str:
    escaped = _escape(text)
    return f"**{escaped}**" if is_best else escaped


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {_escape(line)}" for line in lines)


def _fenced(text: str) -> str:
    """Return text between fences that are longer than any fence inside it."""
    fence = "`" * (1 + max(2, _longest_run(re.findall(r"`+", text))))
    return f"{fence}\n{text.rstrip()}\n{fence}"


def _longest_run(runs: Iterable[str]) -> int:
    return max(map(len, runs), default=0)


def _escape(text: str) -> str:
    """Escape text for Markdown, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
