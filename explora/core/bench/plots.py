"""The plots of a report, as SVG. The only module that imports matplotlib, which the extra `report` brings."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from explora.core.bench.measurements import varying
from explora.core.bench.rows import BenchRow, MeasuredMemory

# Text stays text, and the same figures give the same bytes.
STYLE: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "explora", "font.size": 9}
WIDTH, ROW_HEIGHT = 9.0, 0.35  # inches
Draw = Callable[[Axes, Sequence[BenchRow]], None]


def plots(rows: Sequence[BenchRow]) -> list[tuple[str, str]]:
    """Return titles and SVG: memory by part, speed with its range, and, where there is one, the score."""
    measured = [row for row in rows if row.spread is not None]
    names = varying([row.setting for row in measured])
    labels = [", ".join(filter(None, [row.name, row.setting.described(names)])) for row in measured]
    with matplotlib.rc_context(STYLE):
        found = [
            ("Memory at its peak, by part", _bars(measured, labels, _memory)),
            ("Speed, with the range of the repeats", _bars(measured, labels, _speed)),
        ]
        if any(row.quality for row in measured):
            found.append(("Score against training time", _curves(measured, labels)))
    return found


def _bars(rows: Sequence[BenchRow], labels: Sequence[str], draw: Draw) -> str:
    figure = Figure(figsize=(WIDTH, 1.2 + ROW_HEIGHT * len(rows)), layout="constrained")
    axes = figure.subplots()
    draw(axes, rows)
    axes.set_yticks(range(len(rows)), labels)
    axes.invert_yaxis()
    return _svg(figure)


def _memory(axes: Axes, rows: Sequence[BenchRow]) -> None:
    """Stack the parts; a negative rest is not drawn."""
    start = [0.0] * len(rows)
    for part in sorted((field.name for field in fields(MeasuredMemory)), key=lambda name: name == "rest"):
        sizes = [max(0, getattr(row.memory, part)) / 1e6 for row in rows]
        axes.barh(range(len(rows)), sizes, left=start, label=part)
        start = [before + size for before, size in zip(start, sizes, strict=True)]
    axes.set_xlabel("MB")
    axes.legend(ncols=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)


def _speed(axes: Axes, rows: Sequence[BenchRow]) -> None:
    for place, row in enumerate(rows):
        assert row.spread and row.tokens_per_second
        low, high = row.spread.tokens_per_second
        middle = row.tokens_per_second
        axes.barh(place, middle, color="C0", xerr=[[max(0.0, middle - low)], [max(0.0, high - middle)]])
    axes.set_xlabel("tokens a second")


def _curves(rows: Sequence[BenchRow], labels: Sequence[str]) -> str:
    figure = Figure(figsize=(WIDTH, 4.0), layout="constrained")
    axes = figure.subplots()
    for row, label in zip(rows, labels, strict=True):
        if row.quality is None:
            continue
        curve = row.quality.curve
        score = [point.score for point in curve]
        below = [point.score - point.low for point in curve]
        above = [point.high - point.score for point in curve]
        seconds = [point.seconds for point in curve]
        axes.errorbar(seconds, score, yerr=[below, above], label=label, marker="o", capsize=3)
        axes.set_ylabel(row.quality.metric)
    axes.set_xlabel("seconds of training")
    axes.legend()
    return _svg(figure)


def _svg(figure: Figure) -> str:
    """Return the figure as an element that HTML takes as it is."""
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    text = drawn.getvalue()
    return text[text.index("<svg") :]
