"""Tables of figures, with the best of each column marked, for several reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from explora.core.reports.document import Table


@dataclass(frozen=True, kw_only=True)
class Column:
    """The figures of a column, None for a missing one, and the function that formats them.

    `highest` is True if the highest figure is the best, False if the lowest is, None if neither is.
    """

    name: str
    values: Sequence[float | None]
    write: Callable[[float], str]
    highest: bool | None = None


def figure_table(
    title: str, header: tuple[str, ...], words: Sequence[tuple[str, ...]], columns: Sequence[Column]
) -> Table:
    """Return a table whose lines begin with `words`, under `header`; a column without figures is left out."""
    shown = [column for column in columns if any(value is not None for value in column.values)]
    texts = [["" if value is None else each.write(value) for value in each.values] for each in shown]
    best = {
        (line, place)
        for place, (each, cells) in enumerate(zip(shown, texts, strict=True), len(header))
        for line in _with_their_text(cells, best_lines(each.values, highest=each.highest))
    }
    return Table(
        title=title,
        header=(*header, *(each.name for each in shown)),
        lines=tuple((*word, *cells) for word, cells in zip(words, zip(*texts, strict=True), strict=True)),
        best=frozenset(best),
    )


def _with_their_text(cells: Sequence[str], best: Sequence[int]) -> list[int]:
    """Return the lines whose text equals that of a best line; none if all cells have the same text."""
    shown = {cells[line] for line in best}
    return [line for line, text in enumerate(cells) if text in shown] if len({*cells}) > 1 else []


def megabytes(size: float) -> str:
    """Return bytes as MB, without the unit."""
    return f"{size / 1e6:,.1f}"


def minutes(seconds: float) -> str:
    """Return seconds as minutes, without the unit."""
    return f"{seconds / 60:.2f}"


def best_lines(values: Sequence[float | None], *, highest: bool | None) -> list[int]:
    """Return the lines with the best value; none if `highest` is None or all values are equal."""
    known = [value for value in values if value is not None]
    if highest is None or len(set(known)) < 2:
        return []
    best = max(known) if highest else min(known)
    return [line for line, value in enumerate(values) if value == best]


def machine_table(machine: Mapping[str, Any]) -> Table:
    """Return the description of the machine, memory in GB."""
    facts = {
        name.removesuffix("_bytes").replace("_", " "): f"{value / 1e9:.1f} GB"
        if name.endswith("_bytes")
        else str(value)
        for name, value in machine.items()
    }
    return Table(title="Machine", header=("", "value"), lines=tuple(facts.items()))
