"""Curves of runs that differ only in their seed: the mean, and a band between the extremes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import TypeVar

from explora.core.reports.document import Series
from explora.core.reports.trained_runs import Points, TrainedRun

STRETCHES = 60  # number of points of a curve
Key = TypeVar("Key")


def group_by(runs: Iterable[TrainedRun], key: Callable[[TrainedRun], Key]) -> dict[Key, list[TrainedRun]]:
    """Group runs by key, in the order in which the keys appear."""
    groups: dict[Key, list[TrainedRun]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return groups


def mean_curve(label: str, curves: Sequence[Points]) -> Series:
    """Return the mean of curves over the steps that all of them have, with a band if there are several."""
    values = [dict(curve) for curve in curves]
    shared = [step for step, _ in curves[0] if all(step in each for each in values)]
    return mean_of(label, shared, [[each[step] for each in values] for step in shared])


def mean_of(label: str, xs: Sequence[float], columns: Sequence[Sequence[float]]) -> Series:
    """Return the mean of the values at each x, with a band if any x has several values."""
    has_band = any(len(column) > 1 for column in columns)
    return Series(
        label=label,
        xs=tuple(xs),
        ys=tuple(map(fmean, columns)),
        low=tuple(map(min, columns)) if has_band else (),
        high=tuple(map(max, columns)) if has_band else (),
    )


def smooth(points: Points, steps: int) -> Points:
    """Return the means of at most STRETCHES intervals of a curve, each at the last step of its interval.

    The intervals depend only on `steps`, so that runs of equal length have the same ones.
    """
    stretches: dict[int, list[tuple[int, float]]] = {}
    for step, value in points:
        stretches.setdefault((step - 1) * STRETCHES // max(steps, 1), []).append((step, value))
    return tuple((found[-1][0], fmean(value for _, value in found)) for found in stretches.values())
