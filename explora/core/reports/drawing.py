"""Draw the plots of a report as SVG. Only this module imports matplotlib, from the extra `report`.

Text stays text, and colours are variables of the page's style, so that a plot adapts to light and dark pages.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from html import escape
from itertools import cycle
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from explora.core.reports.document import Bars, Curves, Intervals, Level, Plot

# Any distinct colours: the page replaces them by its own.
INK, RULE, PAPER = "#111111", "#cccccc", "#fefefe"
SERIES = ("#0067a8", "#c04a00", "#00785a", "#97458a", "#8a6500", "#2f93d1", "#d0607e", "#7b8591")
VARIABLES = {
    INK: "currentColor",
    RULE: "var(--rule)",
    PAPER: "var(--paper)",
    **{colour: f"var(--c{n})" for n, colour in enumerate(SERIES)},
}
MARKERS, DASHES = "os^Dv", ("-", "--", "-.")
LEVELS = (":", (0, (6, 2)), (0, (1, 3)))
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "explora",  # equal figures give equal bytes
    "text.parse_math": False,
    "font.size": 10,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.prop_cycle": cycler(color=SERIES),
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "legend.frameon": False,
}
WIDTH = 4.8  # inches: at this width the text is readable on a phone
CURVES_HEIGHT, ROW_HEIGHT, FRAME_HEIGHT, LEGEND_LINE = 2.6, 0.42, 0.6, 0.19  # inches


def draw(plot: Plot, prefix: str) -> str:
    """Return a plot as an SVG element for a page. `prefix` makes its ids unique on that page."""
    with matplotlib.rc_context(STYLE):
        match plot:
            case Curves():
                figure = _draw_curves(plot)
            case Bars():
                figure = _draw_bars(plot)
            case Intervals():
                figure = _draw_intervals(plot)
        return _as_element(figure, prefix, plot.alt)


def _draw_curves(plot: Curves) -> Figure:
    figure, axes = _start(CURVES_HEIGHT + LEGEND_LINE * (len(plot.series) + len(plot.levels)))
    for number, each in enumerate(plot.series):
        is_short = len(each.xs) <= 12
        line = axes.plot(
            each.xs,
            each.ys,
            DASHES[number // len(SERIES) % len(DASHES)],
            marker=MARKERS[number % len(MARKERS)] if is_short else None,
            markersize=4,
            label=each.label,
        )
        if each.low:
            axes.fill_between(each.xs, each.low, each.high, color=line[0].get_color(), alpha=0.2, lw=0)
    _draw_levels(axes.axhline, plot.levels, axes.get_ylim())
    if plot.log_x:
        values = sorted({x for each in plot.series for x in each.xs})
        axes.set_xscale("log")
        axes.set_xticks(values, [f"{x:g}" for x in values])
        axes.minorticks_off()
    axes.set_xlabel(plot.x)
    axes.set_ylabel(plot.y)
    _add_legend(figure, axes)
    return figure


def _draw_bars(plot: Bars) -> Figure:
    parts = list(dict.fromkeys(name for bar in plot.bars for name in bar.parts))
    is_stacked = len(parts) > 1
    lines = (len(parts) + 1) // 2 if is_stacked else 0
    figure, axes = _start(_height(len(plot.bars)) + LEGEND_LINE * (lines + bool(plot.mark)))
    start = [0.0] * len(plot.bars)
    for part in parts:
        sizes = [bar.parts.get(part, 0.0) for bar in plot.bars]
        axes.barh(range(len(plot.bars)), sizes, 0.4, left=start, label=part if is_stacked else None)
        start = [before + size for before, size in zip(start, sizes, strict=True)]
    for row, bar in enumerate(plot.bars):
        if bar.spread:
            ends = [[max(0.0, bar.length - bar.spread[0])], [max(0.0, bar.spread[1] - bar.length)]]
            axes.errorbar(bar.length, row, xerr=ends, color=INK, capsize=3)
        if bar.mark is not None:
            _mark(axes, row, bar.mark, plot.mark)
    _name_rows(axes, [bar.label for bar in plot.bars])
    axes.set_xlim(left=0)
    axes.set_xlabel(plot.x)
    _add_legend(figure, axes)
    return figure


def _draw_intervals(plot: Intervals) -> Figure:
    figure, axes = _start(_height(len(plot.items)) + LEGEND_LINE * (len(plot.levels) + bool(plot.mark)))
    for row, each in enumerate(plot.items):
        axes.plot([each.low, each.high], [row, row], color=SERIES[0], lw=2)
        axes.plot([each.value], [row], "o", color=SERIES[0], markersize=6)
        if each.mark is not None:
            _mark(axes, row, each.mark, plot.mark)
    _draw_levels(axes.axvline, plot.levels, axes.get_xlim())
    _name_rows(axes, [each.label for each in plot.items])
    axes.set_xlabel(plot.x)
    _add_legend(figure, axes)
    return figure


def _start(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _height(rows: int) -> float:
    return FRAME_HEIGHT + ROW_HEIGHT * rows


def _mark(axes: Axes, row: int, value: float, label: str) -> None:
    axes.plot([value, value], [row - 0.28, row + 0.28], color=INK, lw=2, label=label)


def _name_rows(axes: Axes, labels: Sequence[str]) -> None:
    """Write the labels above their rows, where long ones fit, with the first row at the top."""
    place = axes.get_yaxis_transform()
    behind = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.5}  # hides lines behind a label
    for row, label in enumerate(labels):
        axes.text(0.01, row - 0.3, label, transform=place, va="bottom", bbox=behind)
    axes.set_yticks([])
    axes.set_ylim(len(labels) - 0.5, -0.9)
    axes.spines["left"].set_visible(False)


def _draw_levels(line: Any, levels: Sequence[Level], limits: tuple[float, float]) -> None:
    """Draw lines across a plot; a level far outside of its `limits` is only named in the legend."""
    low, high = limits
    room = 2 * (high - low)
    for level, style in zip(levels, cycle(LEVELS), strict=False):
        is_near = low - room <= level.value <= high + room
        label = f"{level.label}: {level.value:.4g}" + ("" if is_near else " (outside)")
        at = level.value if is_near else math.nan
        line(at, linestyle=style, color=INK, lw=1.2, label=label)


def _add_legend(figure: Figure, axes: Axes) -> None:
    """Add a legend of the lines and colours below the plot, each once."""
    handles, labels = axes.get_legend_handles_labels()
    known = dict(zip(labels, handles, strict=True))
    if not known:
        return
    longest = max(map(len, known))
    figure.legend(
        known.values(), known, loc="outside lower center", ncols=2 if longest < 30 else 1, borderpad=0
    )


def _as_element(figure: Figure, prefix: str, alt: str) -> str:
    """Return the figure as an SVG element for a page, with an alternative text."""
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = drawn.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, variable)
    text = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{prefix}-", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1)
