"""Delimited tables as text, row by row: CSV, TSV, and the files of CS224N and MSR.

The files of CS224N are tab-separated with minimal quoting, one row per line: strict parsing and writing gives
the same bytes. Some of them were converted once or twice from CSV without undoing the quotes. A field of
these, parsed correctly, still is CSV text: `"What is ""Chajja""?"`. `_unquoted` undoes these inner layers,
too; otherwise every quote would stay doubled. CFIMDB's reviews were tokenized while they were in quotes, so
`" " Goodfellas " "` stays as it is.
"""

from __future__ import annotations

import csv
import itertools
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from explora.core.config.registry import TaskRow
from explora.core.data.column_proposals import SAMPLE
from explora.core.data.columns import count_known, match_columns, numbered_header
from explora.core.data.records import ID, SKIP_HINT, Parsed, checked
from explora.errors import DataError

DELIMITERS = "\t,;|"

_CS224N_ID = re.compile(r"[0-9a-f]{25}")
_MSR_HEADER = "Quality\t#1 ID\t"
_UNCLOSED = "unexpected end of data"  # the csv module's message for a quote that is still open at the end
_SAMPLE = 20  # number of lines from which the delimiter is determined


def is_msr(text: str) -> bool:
    """Return whether a text starts like the files of the Microsoft Research Paraphrase Corpus."""
    return text.startswith(_MSR_HEADER)


def find_delimiter(lines: Sequence[str], row: TaskRow, given: Mapping[str, str]) -> str:
    """Return the delimiter with which the first line has the most columns of the task.

    Among equals, it is one that gives the first lines the same number of fields. The result is a tab for a
    file with a single column.
    """
    first = list(itertools.islice((line for line in lines if line.strip()), _SAMPLE))
    signs = [sign for sign in DELIMITERS if sign in first[0]]

    def fitness(sign: str) -> tuple[int, bool]:
        header = first[0].replace('"', "").split(sign)
        even = len({line.count(sign) for line in first}) == 1
        return count_known(header, row, given), even

    return max(signs, key=fitness, default="\t")


def separator_line(line: str) -> str | None:
    """Return the delimiter that Excel's first line `sep=;` names, None for any other line."""
    found = re.fullmatch(r'"?sep=(.)"?[,;\s]*', line, re.IGNORECASE | re.DOTALL)
    return found[1] if found else None


def parse_delimited(
    lines: list[str],
    row: TaskRow,
    given: Mapping[str, str],
    file: str,
    *,
    delimiter: str,
    quoted: bool = True,
) -> Parsed:
    """Yield the rows of a delimited table, and a DataError for each bad one.

    `lines` keep their line ends; `given` maps canonical columns to the file's names or positions. Empty
    fields after the last column are ignored. Raises DataError if the header is unusable.
    """
    rows: Iterator[tuple[int, list[str] | csv.Error]] = (
        (number, fields) for number, fields in _split(lines, delimiter, quoted) if fields
    )
    number, first = next(rows, (1, [""]))
    if isinstance(first, csv.Error):
        raise _broken_quoting(first, file, number, delimiter)
    header = _cs224n_header(first, row) or numbered_header(first, row, given)
    if header:
        rows = itertools.chain([(number, first)], rows)
    else:
        header = [name.strip() for name in first]
    head = list(itertools.islice(rows, SAMPLE))
    rows = itertools.chain(head, rows)
    sample = _columns_of(header, [fields for _, fields in head if isinstance(fields, list)])
    columns = match_columns(header, row, given, file, by_position=True, sample=sample)
    positions = {canonical: header.index(name) for canonical, name in columns.items()}
    least = len(_without_empty_end(header, 1))
    for number, fields in rows:
        if isinstance(fields, csv.Error):
            yield _broken_quoting(fields, file, number, delimiter)
            continue
        fields = _without_empty_end(fields, least)
        if not least <= len(fields) <= len(header):
            expected = f"{least} fields expected ({', '.join(header[:least])}), {len(fields)} found"
            yield DataError(expected, SKIP_HINT, file=file, line=number)
        else:
            fields += [""] * (len(header) - len(fields))
            cells = {name: fields[position] for name, position in positions.items()}
            values = {name: _unquoted(cell) if quoted else cell for name, cell in cells.items()}
            yield checked(values, columns, row, file, number)


def _columns_of(header: list[str], rows: list[list[str]]) -> dict[str, list[str]]:
    """Return the values of each column, without the rows that are too short to have one."""
    return {name: [fields[at] for fields in rows if at < len(fields)] for at, name in enumerate(header)}


def _without_empty_end(fields: list[str], least: int) -> list[str]:
    """Return `fields` without empty ones at the end, such as trailing commas give; at least `least` stay."""
    end = len(fields)
    while end > least and not fields[end - 1].strip():
        end -= 1
    return fields[:end]


def _cs224n_header(first: list[str], row: TaskRow) -> list[str] | None:
    """Return the columns of a CS224N file without a header, None if `first` is not a row of such a file."""
    if len(first) < 2 or not _CS224N_ID.fullmatch(first[1]):
        return None
    labelled = ["index", ID, *row.columns, *([row.label] if row.label else [])]
    return next((names for names in (labelled, labelled[:-1]) if len(names) == len(first)), None)


def _split(
    lines: list[str], delimiter: str, quoted: bool
) -> Iterator[tuple[int, list[str]] | tuple[int, csv.Error]]:
    """Yield (first line, fields) of each record; after a malformed record, continue at the very next line.

    So an opening quote that is never closed costs its own line, not the rest of the file.
    """
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    start = 0
    while start < len(lines):
        offset = start
        reader = csv.reader(lines[offset:], delimiter=delimiter, quoting=quoting, strict=True)
        try:
            for fields in reader:
                if delimiter == "\t" and any("\t" in field and "\n" in field for field in fields):
                    raise csv.Error("a quoted field contains the next row")
                yield start + 1, fields
                start = offset + reader.line_num
        except csv.Error as error:
            yield start + 1, error
            start += 1


def _broken_quoting(error: csv.Error, file: str, line: int, delimiter: str) -> DataError:
    problem = "a quote opens in this row and is not closed" if str(error) == _UNCLOSED else str(error)
    hint = 'close the quote, or write "" for a quote within a quoted field; or skip bad rows: --skip-bad'
    if delimiter == "\t":
        hint += "; if the file has no quoting: --format msr"
    return DataError(f"the quoting is broken: {problem}", hint, file=file, line=line)


def _unquoted(cell: str) -> str:
    """Undo the CSV quoting that a cell still has, layer by layer (see the module's docstring).

    A layer is a pair of quotes around the whole text in which every quote is doubled. A text that merely
    is in quotes, or contains quotes, does not change.
    """
    text = cell.strip()
    while len(text) > 3 and text[0] == text[-1] == '"':
        inner = text[1:-1]
        if '"' not in inner or '"' in inner.replace('""', ""):
            break
        text = inner.replace('""', '"').strip()
    return text
