"""Published figures, from published.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("published.toml")
PAPER = "paper"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A published score of a contender on a data set. `source` is a key of `Published.sources`."""

    data: str
    contender: str
    metric: str
    value: float
    source: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Published:
    """All figures, and what their sources are."""

    sources: Mapping[str, str]
    figures: Sequence[Figure]

    def of(self, data: str, contender: str) -> Figure | None:
        """Return the first figure of a contender that is not the paper's own; None without one."""
        return self._first(data, contender, [figure for figure in self.figures if figure.source != PAPER])

    def of_paper(self, data: str, contender: str) -> Figure | None:
        """Return the paper's own figure; None if it is not known."""
        return self._first(data, contender, [figure for figure in self.figures if figure.source == PAPER])

    @staticmethod
    def _first(data: str, contender: str, figures: Sequence[Figure]) -> Figure | None:
        return next((each for each in figures if (each.data, each.contender) == (data, contender)), None)


def read_published(file: Path = FILE) -> Published:
    """Read the published figures."""
    found = tomllib.loads(file.read_text(encoding="utf-8"))
    return Published(sources=found["sources"], figures=[Figure(**each) for each in found["figure"]])
