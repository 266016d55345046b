"""A row in a file: its line and its values by column of the task, or its error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from explora.core.config.registry import TaskRow
from explora.core.data.text_files import what_is_wrong
from explora.errors import DataError

ID = "id"
SKIP_HINT = "correct the row, or skip bad rows with --skip-bad"

# The line where a row starts, from 1, and the row's values by canonical column.
ParsedLine = tuple[int, dict[str, str]]
Parsed = Iterator[ParsedLine | DataError]


def checked(
    values: Mapping[str, str], columns: Mapping[str, str], row: TaskRow, file: str, line: int
) -> ParsedLine | DataError:
    """Return the record with its values stripped, or the error of its first bad value.

    `columns` maps the task's columns to the file's. A label or an id may be empty.
    """
    stripped = {name: text.strip().replace("\r\n", "\n") for name, text in values.items()}
    for canonical, text in stripped.items():
        if not text and canonical in (ID, row.label):
            continue
        if wrong := what_is_wrong(text):
            return DataError(wrong, SKIP_HINT, file=file, line=line, column=columns[canonical])
    return line, stripped
