"""The `explora` command of a cell, as the runner of the study trains it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.paper.prices import Count, Price, price_of
from benchmarks.study.plan import ALL, Cell, Plan
from benchmarks.study.rows import Row


def list_commands(
    plan: Plan, rows: Sequence[Row], counts: Mapping[str, Count], costs: Sequence[Row], splits: Path
) -> Iterator[str]:
    """Yield the price, as a comment, and the command of each cell without a row, the cheapest first."""
    done = {row["cell"] for row in rows}
    cells = [cell for stage in plan.stages for cell in plan.cells(plan.stage(stage.name), rows)]
    priced = [
        (price_of(cell, counts[cell.data.name], costs), cell) for cell in cells if cell.name not in done
    ]
    for price, cell in sorted(priced, key=lambda pair: pair[0].flop):
        yield f"# {describe(price)}"
        yield train_command(cell, price, splits)


def describe(price: Price) -> str:
    """Return a price in one line."""
    hours = "hours not known" if price.hours is None else f"{price.hours:.2f} hours"
    return (
        f"{hours}, {price.steps:,} steps, {price.tokens / 1e6:.2f} M tokens, {price.flop / 1e12:,.0f} TFLOP"
    )


def train_command(cell: Cell, price: Price, splits: Path) -> str:
    """Return the command that trains a cell on the splits in a folder."""
    settings = {name: value for name, value in cell.settings.items() if name != "evaluations"}
    options = {
        "model": cell.base,
        "data": splits / f"{cell.data.name}-train-{ALL}.jsonl",
        "dev": splits / f"{cell.data.name}-choose.jsonl",
        **settings,
        "seed": cell.seed,
        "eval-every": math.ceil(price.steps / cell.settings["evaluations"]),
        "output": Path("runs") / cell.name,
    }
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return shlex.join(["explora", "train", cell.data.task, *words])
