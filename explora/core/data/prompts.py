"""The first lines of a row's text, as a prompt for a continuation."""

from __future__ import annotations

from collections.abc import Iterator

from explora.core.data.splits import Row, Table

PROMPT_LINES = 3  # as in the CS224N course


def first_lines_of(row: Row) -> str:
    """Return the first lines of a row's text as a prompt."""
    return "\n".join(row.values["text"].split("\n")[:PROMPT_LINES]) + "\n"


def first_lines(table: Table) -> Iterator[tuple[Row, str]]:
    """Yield each row with the first lines of its text as a prompt."""
    for row in table.rows:
        yield row, first_lines_of(row)
