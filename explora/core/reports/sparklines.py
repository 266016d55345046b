"""Curves as text: a row of characters, and a table of such rows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from explora.core.reports.document import Curves, Table

MOST_VALUES = 8  # limit for a table with one column per value
BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], bars: str = BLOCKS, width: int = 40) -> str:
    """Draw values as a row of `bars`, each the mean of an interval."""
    width = min(width, len(values))
    edges = [len(values) * i // width for i in range(width + 1)]
    means = [sum(values[start:end]) / (end - start) for start, end in pairwise(edges)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    scale = (len(bars) - 1) / ((high - low) or 1.0)
    return "".join(bars[round((mean - low) * scale)] for mean in means)


def curve_table(curves: Curves, bars: str = BLOCKS) -> Table:
    """Convert a plot to a table: every value of short curves, and the course of long ones.

    The course is the first and the last value, with a sparkline between them. Without `bars`, for a file that
    cannot contain these characters, there is no sparkline.
    """
    xs = sorted({x for each in curves.series for x in each.xs})
    header, lines = _values(curves, xs) if len(xs) <= MOST_VALUES else _courses(curves, bars)
    last = len(header) - 1
    levels = [(level.label, *[""] * (last - 1), f"{level.value:.4g}") for level in curves.levels]
    return Table(title=f"{curves.title}: {curves.y} over {curves.x}", header=header, lines=(*lines, *levels))


def _values(curves: Curves, xs: Sequence[float]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return a header with the values of x, and a line with the values of each curve."""
    lines = []
    for each in curves.series:
        known = dict(zip(each.xs, each.ys, strict=True))
        lines.append((each.label, *(f"{known[x]:.4g}" if x in known else "" for x in xs)))
    return (curves.x, *(f"{x:.4g}" for x in xs)), lines


def _courses(curves: Curves, bars: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return a header, and a line with the course of each curve."""
    course = ("course",) if bars else ()
    lines = [
        (
            each.label,
            f"{each.xs[0]:g} to {each.xs[-1]:g}",
            f"{each.ys[0]:.4g}",
            *([sparkline(each.ys, bars, 20)] if bars else []),
            f"{each.ys[-1]:.4g}",
        )
        for each in curves.series
    ]
    return ("", curves.x, "first", *course, "last"), lines
