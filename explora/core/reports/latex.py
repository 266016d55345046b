"""A report as a LaTeX document that needs only common packages: plain tables, without plots."""

from __future__ import annotations

from collections.abc import Sequence

from explora.core.reports.document import Bars, Block, Curves, Intervals, Listing, Remarks, Report, Table
from explora.core.reports.sparklines import curve_table

_HEAD = r"""\documentclass[10pt]{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage[a4paper,landscape,margin=15mm]{geometry}
\usepackage{textcomp,longtable}
\setlength{\parindent}{0pt}
\setlength{\tabcolsep}{4pt}
\begin{document}
"""
_SPECIAL = {
    **{character: f"\\{character}" for character in "{}$&#_%"},
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    '"': r"\textquotedbl{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "-": "-{}",  # no ligature: in an option, -- is not a dash
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
}
# Characters besides Latin letters that inputenc and the T1 encoding support without further packages.
_TYPOGRAPHIC = frozenset("–—‘’“”…„«»")  # noqa: RUF001
_LAST_LATIN = "\u017f"


def as_latex(report: Report) -> str:
    """Render a report as LaTeX. Plots are left out, because tables have their figures."""
    parts = [_HEAD, rf"\section*{{{escape(report.title)}}}", _list(report.lead)]
    for section in report.sections:
        parts += [rf"\subsection*{{{escape(section.heading)}}}", *(_block(each) for each in section.blocks)]
    return "\n".join(part for part in parts if part) + "\n\\end{document}\n"


def _block(block: Block) -> str:
    match block:
        case Table():
            return _table(block)
        case Listing():
            return _listing(block)
        case Remarks():
            return _list(block.lines)
        case Curves():
            return _table(curve_table(block, bars=""))
        case Bars() | Intervals():
            return ""


def _table(table: Table) -> str:
    columns = "l" + "r" * (len(table.header) - 1)
    header = " & ".join(map(escape, table.header))
    lines = [
        " & ".join(_cell(text, is_best=(row, column) in table.best) for column, text in enumerate(line))
        for row, line in enumerate(table.lines)
    ]
    body = "".join(f"{line} \\\\\n" for line in lines)
    return (
        f"{escape(table.title)}\n\n"
        "{\\scriptsize\n"
        f"\\begin{{longtable}}[l]{{{columns}}}\n"
        f"\\hline\n{header} \\\\\n\\hline\n\\endhead\n{body}\\hline\n"
        "\\end{longtable}}\n"
    )


def _cell(text: str, *, is_best: bool) -> str:
    return rf"\textbf{{{escape(text)}}}" if is_best else escape(text)


def _listing(listing: Listing) -> str:
    """Return lines in a typewriter font. In `verbatim`, the text could contain \\end{verbatim}."""
    lines = r" \\".join(f"\n{escape(line) or '~'}" for line in listing.text.rstrip().splitlines())
    return f"{escape(listing.title)}\n\n{{\\small\\ttfamily\\raggedright{lines}\\par}}\n"


def _list(lines: Sequence[str]) -> str:
    if not lines:
        return ""
    items = "\n".join(rf"\item {escape(line)}" for line in lines)
    return f"\\begin{{itemize}}\n{items}\n\\end{{itemize}}"


def escape(text: str) -> str:
    """Escape text for LaTeX. A character that common fonts do not have is replaced by its number."""
    return "".join(map(_character, text))


def _character(character: str) -> str:
    if character in _SPECIAL:
        return _SPECIAL[character]
    if character in "\n\t":
        return " "
    if (character <= _LAST_LATIN and character.isprintable()) or character in _TYPOGRAPHIC:
        return character
    return f"[U+{ord(character):04X}]"
