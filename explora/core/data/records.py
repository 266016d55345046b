"""A row as a file has it: its line and its values by column of the task, or what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from explora.core.config.registry import TaskRow
from explora.core.data.text_files import what_is_wrong
from explora.errors import DataError

ID = "id"
SKIP_HINT = "correct the row, or leave bad rows out with --skip-bad"

# Where a row starts (1-based physical line), and its values by canonical column.
ParsedLine = tuple[int, dict[str, str]]
Parsed = Iterator[ParsedLine | DataError]


def checked(
    values: Mapping[str, str], columns: Mapping[str, str], row: TaskRow, file: str, line: int
) -> ParsedLine | DataError:
    """Return the record with its values stripped, or what is wrong with the first bad one.

    `columns` maps the task's columns to the file's. A label or an id may be empty.
    """
    stripped = {name: text.strip().replace("\r\n", "\n") for name, text in values.items()}
    for canonical, text in stripped.items():
        if not text and canonical in (ID, row.label):
            continue
        if wrong := what_is_wrong(text):
            return DataError(wrong, SKIP_HINT, file=file, line=line, column=columns[canonical])
    return line, stripped
