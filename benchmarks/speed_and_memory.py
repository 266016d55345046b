"""Draw speed and peak memory of explora beside transformers + peft, from measured rows. Needs matplotlib.

python benchmarks/speed_and_memory.py docs/pictures/speed-and-memory.svg
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import BenchmarkError
from results import HERE, group, read

METHODS = HERE / "results" / "methods-2026-11-26.jsonl"
TARGETS = HERE / "results" / "targets.jsonl"
STACKS = {"explora": "#2f81f7", "transformers + peft": "#9198a1"}
INK = "#6e7781"  # can be read on white and on black
STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "explora",  # the same figures give the same bytes
    "font.size": 11,
    **dict.fromkeys(("text.color", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


@dataclass(frozen=True, kw_only=True)
class Work:
    """A training that both stacks were measured at: explora's figure first, then the peer's."""

    label: str
    speed: tuple[float, float]  # tokens per second
    memory: tuple[float, float]  # bytes


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the committed rows into an SVG."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("svg", type=Path)
    asked = parser.parse_args(arguments)
    try:
        draw(trainings(), asked.svg)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def trainings() -> list[Work]:
    """Return the trainings of the plot, from top to bottom."""
    return [
        _of_targets("LoRA, bf16", "train-bf16"),
        _of_targets("LoRA, fp32", "train-fp32"),
        _of_methods("DoRA, bf16", "dora"),
        _of_methods("IA3, bf16", "ia3"),
        _of_targets("full, bf16", "train-full"),
    ]


def _of_targets(label: str, cell: str) -> Work:
    figures = group(read(TARGETS))
    ours, peers = figures[cell, "explora"], figures[cell, "peer"]
    return Work(
        label=label,
        speed=(ours["tokens_per_second"].median, peers["tokens_per_second"].median),
        memory=(ours["peak_memory_bytes"].median, peers["peak_memory_bytes"].median),
    )


def _of_methods(label: str, method: str) -> Work:
    """Return the last rows of a method in bf16, as `record.py` compares them."""
    measured = [json.loads(line) for line in METHODS.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in measured if (row["method"], row["amp"]) == (method, "bf16")]
    ours = [row for row in rows if row["stack"] == "explora"][-1]
    peers = [row for row in rows if row["stack"] != "explora"][-1]
    return Work(
        label=label,
        speed=(ours["tokens_per_second"], peers["tokens_per_second"]),
        memory=(ours["peak_memory_bytes"], peers["peak_memory_bytes"]),
    )


def speeds(work: Work) -> tuple[str, str]:
    """Return the texts at the two bars of speed."""
    ours, peers = work.speed
    return f"{ours:,.0f}  ({ours / peers:.1f} x)", f"{peers:,.0f}"


def memories(work: Work) -> tuple[str, str]:
    """Return the texts at the two bars of memory."""
    ours, peers = (size / 2**20 for size in work.memory)
    return f"{ours:,.0f}  ({ours / peers:.2f} x)", f"{peers:,.0f}"


def draw(works: Sequence[Work], svg: Path) -> None:
    """Draw one panel for speed and one for memory, on a transparent ground."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise BenchmarkError("plots need matplotlib: pip install matplotlib") from None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 4), layout="constrained")
        fast, small = figure.subplots(1, 2, sharey=True)
        _panel(fast, "Speed in tokens/s: more is better", [(work.speed, speeds(work)) for work in works])
        _panel(small, "Peak memory in MiB: less is better", [(work.memory, memories(work)) for work in works])
        fast.set_yticks(range(len(works)), [work.label for work in works])
        fast.invert_yaxis()
        figure.legend(*fast.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
        figure.savefig(svg, transparent=True, metadata={"Date": None})


def _panel(axes: Any, title: str, bars: Sequence[tuple[tuple[float, float], tuple[str, str]]]) -> None:
    for number, (stack, colour) in enumerate(STACKS.items()):
        places = [row + 0.4 * number - 0.2 for row in range(len(bars))]
        drawn = axes.barh(places, [sizes[number] for sizes, _ in bars], 0.38, color=colour, label=stack)
        axes.bar_label(drawn, [texts[number] for _, texts in bars], padding=3, fontsize=10)
    axes.set_title(title, fontsize=11, loc="left")
    axes.margins(x=0.3)
    axes.set_xticks([])
    axes.tick_params(left=False)
    axes.spines[["top", "right", "bottom"]].set_visible(False)


if __name__ == "__main__":
    sys.exit(main())
