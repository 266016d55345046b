"""A plot of a result file: each ratio that has a target, with target and stretch. Needs matplotlib.

python benchmarks/plot.py benchmarks/results/NAME.jsonl benchmarks/results/NAME.svg
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import BenchmarkError
from results import Line, Spread, group, read
from suite import FIGURES, Target, read_suite
from summary import ratio

PANELS = {True: "times as fast (more is better)", False: "of the peer's memory or time (less is better)"}
MEASURED, GOAL = "#4477aa", "#cc3311"


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A ratio to draw."""

    label: str
    target: Target
    measured: Spread


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the bars into an SVG."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("svg", type=Path)
    asked = parser.parse_args(arguments)
    try:
        found = bars(read(asked.file))
        if not found:
            raise BenchmarkError(f"{asked.file} has no ratio with a target")
        draw(found, asked.svg)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def bars(lines: Sequence[Line]) -> list[Bar]:
    """Return the ratios that have a target, in the suite's order."""
    figures, found = group(lines), []
    for name, cell in read_suite().items():
        of_cell = {contender: each for (of, contender), each in figures.items() if of == name}
        for target in cell.targets:
            measured = ratio(target.figure, of_cell) if target.of == "ratio" else None
            if measured is not None:
                label = f"{name}, {target.figure.split('_')[0]}"
                found.append(Bar(label=label, target=target, measured=measured))
    return found


def draw(found: Sequence[Bar], svg: Path) -> None:
    """Draw a panel for speed-ups, on a logarithmic axis, and one for memory and start-up."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise BenchmarkError("plots need matplotlib: pip install matplotlib") from None
    panels = [[bar for bar in found if FIGURES[bar.target.figure] is more] for more in PANELS]
    figure = Figure(figsize=(9, 1.2 + 0.4 * len(found)), layout="constrained")
    heights = [max(1, len(panel)) for panel in panels]
    for axes, panel, title in zip(
        figure.subplots(2, 1, height_ratios=heights), panels, PANELS.values(), strict=True
    ):
        _panel(axes, panel, title)
    figure.savefig(svg, metadata={"Date": None})


def _panel(axes: Any, panel: Sequence[Bar], title: str) -> None:
    for place, bar in enumerate(reversed(panel)):
        measured = bar.measured
        ends = [[measured.median - measured.low], [measured.high - measured.median]]
        axes.barh(place, measured.median, color=MEASURED, xerr=ends, ecolor="black", height=0.6)
        axes.plot([bar.target.reach] * 2, [place - 0.4, place + 0.4], color=GOAL)
        if bar.target.stretch is not None:
            axes.plot([bar.target.stretch] * 2, [place - 0.4, place + 0.4], color=GOAL, linestyle=":")
    axes.set_yticks(range(len(panel)), [bar.label for bar in reversed(panel)])
    axes.set_title(f"{title}; line: target, dotted: stretch", fontsize=10)
    if any(bar.measured.high > 10 for bar in panel):
        axes.set_xscale("log")
        axes.set_xlim(left=min(1.0, *(bar.measured.low for bar in panel)))


if __name__ == "__main__":
    sys.exit(main())
