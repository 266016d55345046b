"""Curves where there is no room for a plot: a row of characters, and a table of rows. Light."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from explora.core.reports.document import Curves, Table

BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], bars: str = BLOCKS, width: int = 40) -> str:
    """Draw values as a row of `bars`, each the mean of a stretch."""
    width = min(width, len(values))
    edges = [len(values) * i // width for i in range(width + 1)]
    means = [sum(values[start:end]) / (end - start) for start, end in pairwise(edges)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    scale = (len(bars) - 1) / ((high - low) or 1.0)
    return "".join(bars[round((mean - low) * scale)] for mean in means)


def curve_table(curves: Curves, bars: str = BLOCKS) -> Table:
    """Return a plot as a table: the first and the last value of each curve, and a sparkline between them.

    Without `bars`, for a file that cannot hold these characters, there is no sparkline.
    """
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
    course = ("course",) if bars else ()
    levels = [(level.label, "", f"{level.value:.4g}", *[""] * (len(course) + 1)) for level in curves.levels]
    return Table(
        title=f"{curves.title}: {curves.y} over {curves.x}",
        header=("", curves.x, "first", *course, "last"),
        lines=(*lines, *levels),
    )
