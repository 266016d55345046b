"""Expect how good each contender will be, from cells near to a question, and choose among equals by cost.

The nearer a cell is, the more it counts. A step of distance halves the weight: another task, another kind of
task, another base, and each factor of ten between the numbers of rows.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from explora.core.advice.outcomes import Outcome
from explora.core.advice.study import Cell
from explora.core.config.registry import FULL_METHOD, TASKS

TIE = 1.0  # points: smaller differences decide nothing
NEAR = 1.0  # steps of distance: a contender must be known from a cell about as near as the nearest


@dataclass(frozen=True, kw_only=True)
class Question:
    """What advice is asked for: a task, its number of training rows, a base by name."""

    task: str
    examples: int
    base: str


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What the cells of the study let expect of a contender.

    `shortfall` is the weighted mean distance from the best of each cell in points (0.01 of accuracy, or 2 %
    of perplexity); if no cell has the question's task, it is the largest distance, because tasks differ more
    than a mean tells. In a cell where the contender was not trained, it counts as full fine-tuning there,
    plus its mean difference from full fine-tuning elsewhere: neither easy cells nor weak rivals make it look
    better. `error` is the weighted mean of the standard errors.
    `learning_rate` is the weighted median, for the width of the study's base. `pace` is time per token over
    that of full fine-tuning, None if unknown. `outcomes` are the contender's own cells, the nearest first.
    """

    contender: str
    shortfall: float
    error: float
    learning_rate: float
    pace: float | None
    outcomes: tuple[Outcome, ...]


def distance(cell: Cell, question: Question) -> float:
    """Return how far a cell is from a question: 0 for the same task, base and number of rows."""
    task = 0 if cell.task == question.task else 1 if kind(cell.task) == kind(question.task) else 2
    base = 0 if cell.base == question.base else 1
    return task + base + abs(math.log10(cell.examples / question.examples))


def kind(task: str) -> str:
    """Return what a task asks of a model: classification or generation."""
    return "generation" if TASKS[task].classes is None else "classification"


def weight(cell: Cell, question: Question) -> float:
    """Return how much a cell counts: 1 at distance 0, half of it for each step."""
    return math.exp2(-distance(cell, question))


def expect(question: Question, outcomes: Iterable[Outcome]) -> list[Expectation]:
    """Return what to expect of each contender that is known from near cells, the best first."""
    by_contender: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_contender[outcome.contender].append(outcome)
    if not by_contender:
        return []
    of_full = {outcome.cell: outcome.shortfall for outcome in by_contender.get(FULL_METHOD, [])}
    for found in by_contender.values():
        found.sort(key=lambda outcome: distance(outcome.cell, question))
    nearest = {name: distance(found[0].cell, question) for name, found in by_contender.items()}
    limit = min(nearest.values()) + NEAR
    expected = [
        _expectation(name, found, of_full, question)
        for name, found in by_contender.items()
        if nearest[name] <= limit
    ]
    return sorted(expected, key=lambda each: each.shortfall)


def _expectation(
    contender: str, outcomes: Sequence[Outcome], of_full: Mapping[Cell, float], question: Question
) -> Expectation:
    own = {outcome.cell: outcome.shortfall for outcome in outcomes}
    beside_full = {cell: own[cell] - of_full[cell] for cell in own if cell in of_full}
    extra = _weighted(beside_full, question) if beside_full else 0.0
    shortfalls = {cell: max(0.0, value + extra) for cell, value in of_full.items()} | own
    weights = [weight(outcome.cell, question) for outcome in outcomes]
    is_known = any(cell.task == question.task for cell in shortfalls)
    paced = [(each.pace, part) for each, part in zip(outcomes, weights, strict=True) if each.pace is not None]
    return Expectation(
        contender=contender,
        shortfall=_weighted(shortfalls, question) if is_known else max(shortfalls.values()),
        error=_mean([each.error for each in outcomes], weights),
        learning_rate=_median([each.learning_rate for each in outcomes], weights),
        pace=_mean(*zip(*paced, strict=True)) if paced else None,
        outcomes=tuple(outcomes),
    )


def choose(expected: Sequence[Expectation], costs: Mapping[str, float]) -> Expectation:
    """Return the cheapest of those that are not distinguishable from the best of `expected`.

    Two are not distinguishable within a point, or within the standard error if that is larger.
    """
    least = min(each.shortfall for each in expected)
    tied = [each for each in expected if each.shortfall - least <= max(TIE, each.error)]
    return min(tied, key=lambda each: (costs[each.contender], each.shortfall))


def _weighted(shortfalls: Mapping[Cell, float], question: Question) -> float:
    return _mean([*shortfalls.values()], [weight(cell, question) for cell in shortfalls])


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    total = sum(value * own for value, own in zip(values, weights, strict=True))
    return total / sum(weights)


def _median(values: Sequence[float], weights: Sequence[float]) -> float:
    """Return the smallest value up to which half of the weight lies."""
    half, reached = sum(weights) / 2, 0.0
    for value, own in sorted(zip(values, weights, strict=True)):
        reached += own
        if reached >= half:
            return value
    return max(values)
