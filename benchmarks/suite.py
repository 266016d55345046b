"""The suite file: cells, their settings and what they are to reach. Light: no torch."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from errors import BenchmarkError

SUITE = Path(__file__).with_name("suite.toml")

# figure: whether more of it is better
FIGURES = {
    "tokens_per_second": True,
    "rows_per_second": True,
    "matrix_share": True,
    "peak_memory_bytes": False,
    "first_output_seconds": False,
    "seconds": False,
}


@dataclass(frozen=True, kw_only=True)
class Target:
    """A figure to reach: the first contender's over the second's, or the first's own."""

    figure: str
    reach: float
    stretch: float | None = None
    of: str = "ratio"

    def is_reached(self, value: float, goal: float) -> bool:
        """Whether `value` is as good as `goal`."""
        return value >= goal if FIGURES[self.figure] else value <= goal


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One line of the suite: the work in words, the kind that measures it, that kind's settings."""

    name: str
    work: str
    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    quick: Mapping[str, Any] = field(default_factory=dict)
    targets: Sequence[Target] = ()
    repeats: int = 1


def read_suite(file: Path = SUITE) -> dict[str, Cell]:
    """Return the cells by name, in the file's order."""
    tables = tomllib.loads(file.read_text(encoding="utf-8"))
    return {name: _cell(name, table) for name, table in tables.items()}


def _cell(name: str, table: dict[str, Any]) -> Cell:
    own = {key: table.pop(key) for key in ("work", "kind", "repeats") if key in table}
    targets = tuple(Target(**target) for target in table.pop("targets", ()))
    return Cell(name=name, targets=targets, quick=table.pop("quick", {}), settings=table, **own)


def choose(suite: Mapping[str, Cell], names: Sequence[str]) -> list[Cell]:
    """Return the cells called so, all without a name. Raises BenchmarkError for a name that is none."""
    if unknown := [name for name in names if name not in suite]:
        raise BenchmarkError(f"no cell {', '.join(unknown)}; there are {', '.join(suite)}")
    return [suite[name] for name in names or suite]
