"""The scores of one model, as a table and as a plot."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from explora.core.reports.document import Block, Interval, Intervals, Remarks, Table

HEADER = ("score", "value", "95 % from", "to", "best trivial", "trivial answer", "better")


def score_blocks(title: str, metric: str, found: Mapping[str, Any]) -> tuple[Block, ...]:
    """Return the scores of an evaluation, given in the form of `Evaluation.to_json`.

    The plot shows the scores on the scale of `metric`, the most important one; the table shows all scores.
    """
    lines = []
    for name, value in found["scores"].items():
        low, high = found["intervals"][name]
        floor = found["floors"].get(name)
        trivial = "" if floor is None else _number(floor)
        answer = found.get("trivial_answers", {}).get(name, "")
        is_higher = found.get("higher_is_better", {}).get(name)
        better = "" if is_higher is None else "higher" if is_higher else "lower"
        lines.append((name, _number(value), _end(low), _end(high), trivial, answer, better))
    table = Table(title=title, header=HEADER, lines=tuple(lines))
    notes = tuple(found.get("notes", ()))
    return (table, _plot(metric, found), *((Remarks(lines=notes),) if notes else ()))


def _plot(metric: str, found: Mapping[str, Any]) -> Intervals:
    ends, floors = found["intervals"], found["floors"]
    items = [
        Interval(label=name, value=value, low=ends[name][0], high=ends[name][1], mark=floors.get(name))
        for name, value in found["scores"].items()
        if _are_known(value, *ends[name]) and _has_scale_of(metric, name, ends)
    ]
    is_one_score = all(item.label.startswith(metric) for item in items)
    return Intervals(
        title="Scores with 95 % intervals",
        x=metric if is_one_score else "score",
        items=tuple(items),
        mark="best trivial answer",
    )


def _has_scale_of(metric: str, name: str, ends: Mapping[str, Any]) -> bool:
    """Return whether a score fits the plot of `metric`: both are shares, or it is a variant of it."""
    if name.startswith(metric):
        return True
    return all(each is not None and 0 <= each <= 1 for each in (*ends[metric], *ends[name]))


def _are_known(*values: float | None) -> bool:
    return not any(value is None or math.isnan(value) for value in values)


def _end(value: float | None) -> str:
    """Return the end of an interval as text; it may be unknown."""
    return _number(value) if _are_known(value) else "unknown"


def _number(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.4g}"
