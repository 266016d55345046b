"""Figures that several reports share: sizes as text, the best of a column, the machine. Light."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from explora.core.reports.document import Table


def megabytes(size: float) -> str:
    """Return bytes as MB, without the unit."""
    return f"{size / 1e6:,.1f}"


def best_lines(values: Sequence[float | None], *, highest: bool | None) -> list[int]:
    """Return the lines that have the best value; none if `highest` is None or all values are equal."""
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
