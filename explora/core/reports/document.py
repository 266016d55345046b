"""The parts of a report as plain data: sections with tables, plots, lists and verbatim text.

A renderer converts them to a file: `html_page`, `markdown` or `latex`. Figures in tables are text, in the
unit that the header of their column names. Plots have numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table with a title. `best` has the (line, column) of the best figures."""

    title: str
    header: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    best: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Text that is shown unchanged, such as commands or a poem."""

    title: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Remarks:
    """A list of sentences."""

    lines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Level:
    """A reference value, drawn as a line across a plot."""

    label: str
    value: float


@dataclass(frozen=True, kw_only=True)
class Series:
    """A curve. `low` and `high` are the edges of its band, empty if it has none."""

    label: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Curves:
    """A line plot. `x` and `y` are the labels of the axes, with their units."""

    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    levels: tuple[Level, ...] = ()
    log_x: bool = False

    @property
    def alt(self) -> str:
        """Description of the plot in words, for readers who cannot see it."""
        names = "; ".join(f"{each.label} from {each.ys[0]:.4g} to {each.ys[-1]:.4g}" for each in self.series)
        return f"{self.title}. Line plot of {self.y} over {self.x}: {names}.{describe(self.levels)}"


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A bar of stacked parts. `spread` is the range of its length; `mark` is a value marked beside it."""

    label: str
    parts: Mapping[str, float]
    spread: tuple[float, float] | None = None
    mark: float | None = None

    @property
    def length(self) -> float:
        """The sum of the parts."""
        return sum(self.parts.values())


@dataclass(frozen=True, kw_only=True)
class Bars:
    """A plot of horizontal bars. `x` is the label of the axis, with its unit; `mark` explains the marks."""

    title: str
    x: str
    bars: tuple[Bar, ...]
    mark: str = ""

    @property
    def alt(self) -> str:
        """Description of the plot in words, for readers who cannot see it."""
        names = "; ".join(f"{bar.label}: {bar.length:,.4g}" for bar in self.bars)
        return f"{self.title}. Bars of {self.x}. {names}."


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value with its 95 % interval. `mark` is a value marked beside it."""

    label: str
    value: float
    low: float
    high: float
    mark: float | None = None


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """A plot of values with their intervals, one below the other.

    `x` is the label of the axis; `mark` explains the marks.
    """

    title: str
    x: str
    items: tuple[Interval, ...]
    levels: tuple[Level, ...] = ()
    mark: str = ""

    @property
    def alt(self) -> str:
        """Description of the plot in words, for readers who cannot see it."""
        names = "; ".join(f"{i.label}: {i.value:.4g} ({i.low:.4g} to {i.high:.4g})" for i in self.items)
        return f"{self.title}. {names}.{describe(self.levels)}"


Plot = Curves | Bars | Intervals
Block = Table | Listing | Remarks | Plot


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and the blocks below it."""

    heading: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, kw_only=True)
class Report:
    """A whole report. `lead` is its summary, a list of sentences."""

    title: str
    lead: tuple[str, ...]
    sections: tuple[Section, ...]


def describe(levels: tuple[Level, ...]) -> str:
    """Return the levels of a plot in words, for its alternative text."""
    return "".join(f" {level.label}: {level.value:.4g}." for level in levels)
