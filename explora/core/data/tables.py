"""Tables as text: CSV, TSV, the files of CS224N and MSR, and JSON Lines, row by row.

How the files of CS224N were written. They are tab-separated in csv quoting (a field is quoted only
where it must be), one row a line: parsed strictly and written again they give the same bytes. But
some had been csv before, and were read then without undoing the quotes, once or twice; there a field,
read correctly, still is the csv writing of a text: `"What is ""Chajja""?"`. `_unquoted` undoes these
inner layers too. Read without quoting, or with one layer only, every quote would stay doubled. (CFIMDB's
reviews were tokenized while still in quotes: `" " Goodfellas " "` is what is left of those, and stays.)
"""

from __future__ import annotations

import csv
import itertools
import json
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from explora.core.config.registry import TaskRow
from explora.core.data.text_files import what_is_wrong
from explora.errors import DataError, UsageError, did_you_mean

ID = "id"
SKIP_HINT = "--skip-bad leaves bad rows out and reports them"

# Where a row starts (1-based physical line), and its values by canonical column.
ParsedLine = tuple[int, dict[str, str]]
Columns = dict[str, str]  # canonical column -> its name in the file

_CS224N_ID = re.compile(r"[0-9a-f]{25}")
_MSR_HEADER = "Quality\t#1 ID\t"


def is_msr(text: str) -> bool:
    """Whether a text begins as the files of the Microsoft Research Paraphrase Corpus do."""
    return text.startswith(_MSR_HEADER)


def is_jsonl(text: str) -> bool:
    """Whether a text begins as an object does: `{`, then a key or its end."""
    return re.match(r'\s*\{\s*["}]', text) is not None


def delimiter_of(lines: list[str]) -> str:
    """Return what separates the columns in the first line; a tab where there is only one column."""
    header = next(line for line in lines if line.strip())
    return next((sign for sign in "\t,;" if sign in header), "\t")


def parse_delimited(
    lines: list[str],
    row: TaskRow,
    given: Mapping[str, str],
    file: str,
    *,
    delimiter: str,
    quoted: bool = True,
) -> Iterator[ParsedLine | DataError]:
    """Yield the rows of a delimited table, and a DataError for each bad one.

    `lines` keep their line ends; `given` maps canonical columns to the file's names. Raises DataError
    when the header is unusable.
    """
    rows: Iterator[tuple[int, list[str] | csv.Error]] = (
        (number, fields) for number, fields in _split(lines, delimiter, quoted) if fields
    )
    number, first = next(rows)
    if isinstance(first, csv.Error):
        raise _broken_quoting(first, file, number)
    header = _cs224n_header(first, row)
    if header:
        rows = itertools.chain([(number, first)], rows)
    else:
        header = [name.strip() for name in first]
    columns = match_columns(header, row, given, file)
    positions = {canonical: header.index(name) for canonical, name in columns.items()}
    for number, fields in rows:
        if isinstance(fields, csv.Error):
            yield _broken_quoting(fields, file, number)
        elif len(fields) != len(header):
            expected = f"{len(header)} fields expected ({', '.join(header)}), {len(fields)} found"
            yield DataError(expected, SKIP_HINT, file=file, line=number)
        else:
            cells = {name: fields[position] for name, position in positions.items()}
            values = {name: _unquoted(cell) if quoted else cell for name, cell in cells.items()}
            yield _checked(values, columns, file, number)


def parse_jsonl(
    lines: list[str], row: TaskRow, given: Mapping[str, str], file: str
) -> Iterator[ParsedLine | DataError]:
    """Yield the rows of a JSON Lines table, and a DataError for each bad one; blank lines are nothing.

    Raises DataError when no object has a required column.
    """
    objects = [(n, _object(line, file, n)) for n, line in enumerate(lines, 1) if line.strip()]
    keys: dict[str, None] = {}
    for _, item in objects:
        keys |= dict.fromkeys(item if isinstance(item, dict) else ())
    if not keys:
        raise next((item for _, item in objects if isinstance(item, DataError)), _no_keys(file))
    columns = match_columns(list(keys), row, given, file)
    for number, item in objects:
        if isinstance(item, DataError):
            yield item
            continue
        values = _strings(item, columns, row, file, number)
        yield values if isinstance(values, DataError) else _checked(values, columns, file, number)


def match_columns(there: list[str], row: TaskRow, given: Mapping[str, str], file: str) -> Columns:
    """Find the columns of a task among those of a file.

    Required are the task's columns and those in `given`; the label and the id are taken where they
    are. A canonical name goes before an alias. Raises DataError naming what is there, UsageError when
    `given` names no column of the task.
    """
    wanted = [*row.columns, *([row.label] if row.label else []), ID]
    for name in given:
        if name not in wanted:
            known = ", ".join(wanted)
            raise UsageError(f"--columns: no column {name!r}{did_you_mean(name, wanted)} (there are {known})")
    folded = {name.casefold(): name for name in reversed(there)}
    found: Columns = {}
    for canonical in wanted:
        names = [canonical, *(alias for alias, meant in row.aliases.items() if meant == canonical)]
        if canonical in given:
            names = [given[canonical]]
        match = next((folded[name.casefold()] for name in names if name.casefold() in folded), None)
        if match is not None:
            found[canonical] = match
        elif canonical in row.columns or canonical in given:
            raise _no_column(names[0], canonical, there, file)
    for name in found.values():
        if there.count(name) > 1:
            raise DataError(f"{there.count(name)} columns have this name", file=file, line=1, column=name)
    return found


def _no_column(name: str, canonical: str, there: list[str], file: str) -> DataError:
    shown = ", ".join(repr(column[:40]) for column in there[:12])
    message = f"no column {name!r}{did_you_mean(name, there)} (there are {shown})"
    return DataError(message, f"name it: --columns {canonical}=NAME", file=file, line=1)


def _no_keys(file: str) -> DataError:
    return DataError("the objects have no keys", "a row is an object: {...}", file=file, line=1)


def _cs224n_header(first: list[str], row: TaskRow) -> list[str] | None:
    """Return the columns of a CS224N file without a header, None when `first` is no such row."""
    if len(first) < 2 or not _CS224N_ID.fullmatch(first[1]):
        return None
    labelled = ["index", ID, *row.columns, *([row.label] if row.label else [])]
    return next((names for names in (labelled, labelled[:-1]) if len(names) == len(first)), None)


def _split(
    lines: list[str], delimiter: str, quoted: bool
) -> Iterator[tuple[int, list[str]] | tuple[int, csv.Error]]:
    """Yield (first line, fields) of each record; after a broken one go on at the very next line.

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
                    raise csv.Error("a quoted field has swallowed the next row")
                yield start + 1, fields
                start = offset + reader.line_num
        except csv.Error as error:
            yield start + 1, error
            start += 1


def _broken_quoting(error: csv.Error, file: str, line: int) -> DataError:
    hint = f"a file without quoting is read by --format msr; {SKIP_HINT}"
    return DataError(f"the quoting is broken: {error}", hint, file=file, line=line)


def _unquoted(cell: str) -> str:
    """Undo the csv quoting that a cell still has, layer by layer (see above).

    A layer is a pair of quotes around the whole, with every quote between them doubled; a text that
    just stands between quotes, or has some, is left as it is.
    """
    text = cell.strip()
    while len(text) > 3 and text[0] == text[-1] == '"':
        inner = text[1:-1]
        if '"' not in inner or '"' in inner.replace('""', ""):
            break
        text = inner.replace('""', '"').strip()
    return text


def _object(line: str, file: str, number: int) -> dict[str, Any] | DataError:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        message = f"invalid JSON: {error.msg} (character {error.colno})"
        return DataError(message, SKIP_HINT, file=file, line=number)
    except (ValueError, RecursionError) as error:
        return DataError(f"invalid JSON: {error}", SKIP_HINT, file=file, line=number)
    if not isinstance(value, dict):
        return DataError(
            f"an object {{...}} is expected, not {_kind(value)}", SKIP_HINT, file=file, line=number
        )
    return value


def _strings(
    item: Mapping[str, Any], columns: Columns, row: TaskRow, file: str, number: int
) -> dict[str, str] | DataError:
    """Return the values as strings: texts must be ones; a label or an id may be a number or a boolean."""
    values = {}
    for canonical, name in columns.items():
        value = item.get(name)
        if value is None:
            values[canonical] = ""
        elif isinstance(value, str):
            values[canonical] = value
        elif canonical not in row.columns and isinstance(value, (bool, int, float)):
            values[canonical] = json.dumps(value)
        else:
            expected = f"a string is expected, not {_kind(value)}"
            return DataError(expected, SKIP_HINT, file=file, line=number, column=name)
    return values


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _checked(values: Mapping[str, str], columns: Columns, file: str, number: int) -> ParsedLine | DataError:
    """Return the record with its values stripped, or what is wrong with the first bad one."""
    stripped = {name: text.strip().replace("\r\n", "\n") for name, text in values.items()}
    for canonical, text in stripped.items():
        wrong = "" if canonical == ID and not text else what_is_wrong(text)
        if wrong:
            return DataError(wrong, SKIP_HINT, file=file, line=number, column=columns[canonical])
    return number, stripped
