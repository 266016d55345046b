"""The scores of one model, as a table and as plots. Light."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from explora.core.reports.document import Block, Interval, Intervals, Remarks, Table

HEADER = ("score", "value", "95 % from", "to", "best trivial", "trivial answer", "better")


def score_blocks(title: str, found: Mapping[str, Any]) -> tuple[Block, ...]:
    """Return the scores of an evaluation, given as `Evaluation.to_json` writes it.

    Scores that are shares share a plot. The others have no common scale and stand in the table alone.
    """
    lines = []
    for name, value in found["scores"].items():
        low, high = found["intervals"][name]
        floor = found["floors"].get(name)
        trivial = "" if floor is None else _number(floor)
        answer = found.get("trivial_answers", {}).get(name, "")
        is_higher = found.get("higher_is_better", {}).get(name)
        better = "" if is_higher is None else "higher" if is_higher else "lower"
        lines.append((name, _number(value), _number(low), _number(high), trivial, answer, better))
    table = Table(title=title, header=HEADER, lines=tuple(lines))
    notes = tuple(found.get("notes", ()))
    return (table, *_plots(found), *((Remarks(lines=notes),) if notes else ()))


def _plots(found: Mapping[str, Any]) -> tuple[Block, ...]:
    """Return the plot of the scores from 0 to 1, each with its trivial answer below it."""
    items = []
    for name, value in found["scores"].items():
        low, high = found["intervals"][name]
        if not _is_share(low, high):
            continue
        items.append(Interval(label=name, value=value, low=low, high=high))
        if (floor := found["floors"].get(name)) is not None:
            items.append(
                Interval(label=f"{name} of the best trivial answer", value=floor, low=floor, high=floor)
            )
    if not items:
        return ()
    return (Intervals(title="Scores with 95 % intervals", x="score", items=tuple(items)),)


def _is_share(low: float | None, high: float | None) -> bool:
    return low is not None and high is not None and 0 <= low <= high <= 1


def _number(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.4g}"
