"""The price of a cell: optimizer steps, tokens, floating-point operations and hours."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from benchmarks.study.plan import Cell
from benchmarks.study.rows import Row
from explora.api import configure
from explora.core.base.find import shape_of
from explora.core.config.registry import TASKS, Shape
from explora.core.config.run_config import TrainRun
from explora.core.estimate.flop import step_flop

MEASURED_BASE = "random:gpt2"  # GPT-2's shape with random weights, on which speed does not depend


@dataclass(frozen=True, kw_only=True)
class Count:
    """A training set: rows, tokens, and tokens with a loss in one epoch (for classification, the rows)."""

    rows: int
    tokens: int
    predicted: int


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a training costs, without scoring.

    tokens: all tokens that the training reads; flop: floating-point operations; hours: None without a
    measured speed of the method.
    """

    steps: int
    tokens: int
    flop: float
    hours: float | None


def price_of(cell: Cell, count: Count, costs: Sequence[Row]) -> Price:
    """Return the price of a cell. `costs` are rows of `explora bench`."""
    run = configure_cell(cell)
    shape = shape_of(cell.base)
    passes = run.training.epochs
    if run.method.first_trained_block(shape) == shape.n_layer:
        passes = 1  # the feature cache keeps what a frozen model computes
    flop = passes * _epoch_flop(run, shape, count)
    speed = measured_speed(costs, cell.settings)
    return Price(
        steps=run.training.steps(count.rows),
        tokens=passes * count.tokens,
        flop=flop,
        hours=None if speed is None else flop / speed / 3600,
    )


def configure_cell(cell: Cell) -> TrainRun:
    """Return the run of a cell, without its data."""
    settings = {name: value for name, value in cell.settings.items() if name != "evaluations"}
    return configure(cell.data.task, settings | {"model": cell.base, "seed": cell.seed})


def _epoch_flop(run: TrainRun, shape: Shape, count: Count) -> float:
    if TASKS[run.task].one_position:
        return step_flop(shape, run.method, count.tokens, 0, answers=count.rows)
    return step_flop(shape, run.method, count.tokens, count.predicted)


def measured_speed(costs: Sequence[Row], settings: Mapping[str, Any]) -> float | None:
    """Return the floating-point operations per second of a method on GPT-2's shape; None if not measured.

    The rank is left out: rank 8 stands for ranks 4 and 16 on the same targets, because adapters are about 1 %
    of the operations. The median of all measurements counts.
    """
    found = [row["matrix_share"] * row["matrix_peak"] for row in costs if _is_of(row, settings)]
    return median(found) if found else None


def measured(costs: Sequence[Row], settings: Mapping[str, Any]) -> Row | None:
    """Return the measurement of exactly this method, rank and targets on GPT-2's shape; None without one."""
    rank = settings.get("rank")
    return next((row for row in costs if _is_of(row, settings) and row["rank"] == rank), None)


def _is_of(row: Row, settings: Mapping[str, Any]) -> bool:
    words = shlex.split(row["command"])
    options = dict(pairwise(words))
    same_targets = row["rank"] is None or options["--targets"] == settings.get("targets")
    return bool(
        not row["error"]
        and options["--model"] == MEASURED_BASE
        and row["method"] == settings["method"]
        and same_targets
    )
