"""Every figure of the study as SVG, from its rows. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from benchmarks.study.comparisons import ALL_TARGETS, SIZES, SST_SIZES
from benchmarks.study.plan import Plan, Stage
from benchmarks.study.results import FULL, best_result, difference, result_of_stage
from benchmarks.study.rows import Row

# Okabe and Ito's colours, which people with any colour vision tell apart.
COLOURS = {
    "full": "#000000",
    "lora-r16-six": "#0072b2",
    "lora-r8-kv": "#56b4e9",
    "dora-r16-six": "#cc79a7",
    "ia3": "#e69f00",
    "last-linear": "#009e73",
}
MARKERS = {
    "full": "s",
    "lora-r16-six": "o",
    "lora-r8-kv": "v",
    "dora-r16-six": "D",
    "ia3": "^",
    "last-linear": "x",
}
PANELS = ("quora-rates", "sst-rates", "sonnets-rates")
STYLE = {"svg.hashsalt": "explora", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}


def all_figures(plan: Plan, rows: Sequence[Row], folder: Path) -> list[Path]:
    """Draw the figures that the rows so far allow, and return their files."""
    drawn = {
        "rates.svg": lambda: _panels(plan, rows, _rate_response),
        "forgetting.svg": lambda: _panels(plan, rows, _forgetting),
        "cost.svg": lambda: _panels(plan, rows, _cost),
        "data.svg": lambda: _data_scaling(plan, rows),
    }
    files = []
    for name, draw in drawn.items():
        with matplotlib.rc_context(STYLE):
            figure = draw()
            if figure is not None:
                figure.savefig(folder / name, metadata={"Date": None}, facecolor="white")
                files.append(folder / name)
    return files


def _panels(
    plan: Plan, rows: Sequence[Row], draw: Callable[[Any, Stage, Sequence[Row]], None]
) -> Figure | None:
    """Return a figure with a panel for each data set that has rows, and one legend."""
    stages = [plan.stage(name) for name in PANELS if any(row["stage"] == name for row in rows)]
    if not stages:
        return None
    figure = Figure(figsize=(3.6 * len(stages), 3.6), layout="constrained")
    for axes, stage in zip(figure.subplots(1, len(stages), squeeze=False)[0], stages, strict=True):
        own = [row for row in rows if row["stage"] == stage.name and row["score"] is not None]
        draw(axes, stage, own if draw is not _cost else rows)
        axes.set_title(stage.data)
        axes.set_ylabel(own[0]["metric"] + ("" if own[0]["higher_is_better"] else " (lower is better)"))
        if not own[0]["higher_is_better"]:
            axes.invert_yaxis()
    handles, labels = max(
        (axes.get_legend_handles_labels() for axes in figure.axes), key=lambda each: len(each[1])
    )
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def _by_contender(stage: Stage, rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of each contender, by learning rate."""
    found = {name: [row for row in rows if row["contender"] == name] for name in stage.contenders}
    return {name: sorted(own, key=lambda row: row["power"]) for name, own in found.items() if own}


def _rate_response(axes: Any, stage: Stage, rows: Sequence[Row]) -> None:
    """Draw the score over the learning rate, in multiples of the middle of the grid."""
    for name, own in _by_contender(stage, rows).items():
        axes.plot(
            [3.0 ** row["power"] for row in own], [row["score"] for row in own],
            color=COLOURS[name], marker=MARKERS[name], markersize=4, label=name,
        )  # fmt: skip
    axes.axvline(1, color="#bbbbbb", linewidth=0.8, zorder=0)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate / middle of the grid")


def _forgetting(axes: Any, stage: Stage, rows: Sequence[Row]) -> None:
    """Draw the score over what was forgotten: a point for each learning rate."""
    for name, own in _by_contender(stage, rows).items():
        lost = [row["forgetting"][1] - row["forgetting"][0] for row in own]
        axes.plot(
            lost, [row["score"] for row in own], color=COLOURS[name], marker=MARKERS[name], markersize=4,
            linewidth=0.8, label=name,
        )  # fmt: skip
    axes.set_xscale("symlog", linthresh=0.1)
    axes.set_xlabel("forgetting, nats per token")


def _cost(axes: Any, stage: Stage, rows: Sequence[Row]) -> None:
    """Draw the score at the chosen learning rate over the processor time of the run, with 95 % intervals."""
    for name in stage.contenders:
        found = best_result(rows, stage.name, name)
        seconds = found and found.mean("processor_seconds")
        if found is None or seconds is None:
            continue
        spread = [found.deviation] if found.deviation is not None else None
        axes.errorbar(
            [seconds], [found.score], yerr=spread, color=COLOURS[name],
            marker=MARKERS[name], linestyle="none", capsize=2, label=name,
        )  # fmt: skip
    axes.set_xlim(left=0)
    axes.set_xlabel("processor seconds")


def _data_scaling(plan: Plan, rows: Sequence[Row]) -> Figure | None:
    """Return LoRA minus full fine-tuning over the number of training rows, with 95 % intervals."""
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.subplots()
    points = 0
    for data, stages in (("Quora", SIZES), ("SST", SST_SIZES)):
        sizes, values, ends = [], [], []
        for stage in map(plan.stage, stages):
            full, found = (result_of_stage(rows, stage, each) for each in (FULL, ALL_TARGETS))
            if full is None or found is None:
                continue
            estimate = difference(found, full)
            sizes.append(full.rows[0]["examples"])
            values.append(estimate.value)
            ends.append((estimate.value - estimate.low, estimate.high - estimate.value))
        points = max(points, len(sizes))
        if sizes:
            axes.errorbar(
                sizes, values, yerr=list(zip(*ends, strict=True)), marker="o", capsize=2, label=data
            )
    if points < 2:
        return None
    axes.axhline(0, color="#bbbbbb", linewidth=0.8, zorder=0)
    axes.set_xscale("log")
    axes.set_xlabel("training rows")
    axes.set_ylabel(f"accuracy of {ALL_TARGETS} minus full")
    axes.legend(frameon=False)
    return figure
