"""Show scores as a table: value, best trivial answer, better direction, and 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from explora import console

if TYPE_CHECKING:
    from explora.core.tasks.contract import Evaluation

HEADER = ("value", "trivial", "better", "95 % interval", "trivial answer")  # by importance
EMPTY = ("",) * (1 + len(HEADER))
# Headings by the beginning or the end of the names below them, in their order in the table.
GROUPS = {
    "_greedy": "greedy continuations",
    "_sampled": "sampled continuations",
    "_human": "the poets' own text",
    "course_": "as in CS224N, with the given lines",
}
BETTER = {True: "higher", False: "lower", None: ""}  # a record of an earlier version does not say


def show_interval(low: float, high: float) -> str:
    """Return an interval as text; its ends are NaN if it cannot be estimated."""
    return "unknown" if math.isnan(low) or math.isnan(high) else f"{low:.4g} to {high:.4g}"


def show_scores(title: str, evaluation: Evaluation) -> None:
    """Write the scores of an evaluation that has some, in groups if there are several kinds."""
    groups: dict[str, list[Sequence[str]]] = {heading: [] for heading in ("", *GROUPS.values())}
    for name in evaluation.scores or {}:
        groups[_heading(name)].append(_row(name, evaluation))
    rows = groups.pop("")
    for heading, others in groups.items():
        if others:
            rows += [EMPTY, (heading, *EMPTY[1:]), *others]
    console.result_table((title, *HEADER), rows)
    for note in evaluation.notes:
        console.note(note)
    if evaluation.doubt:
        console.note(evaluation.doubt)


def _heading(name: str) -> str:
    """Return the heading of the group that a score belongs to, empty for the scores of the model itself."""
    marks = (mark for mark in reversed(GROUPS) if name.startswith(mark) or name.endswith(mark))
    return GROUPS.get(next(marks, ""), "")


def _row(name: str, evaluation: Evaluation) -> Sequence[str]:
    low, high = evaluation.intervals[name]
    floor = evaluation.floors.get(name)
    return (
        name,
        f"{(evaluation.scores or {})[name]:.4g}",
        "" if floor is None else f"{floor:.4g}",
        BETTER[evaluation.higher_is_better.get(name)],
        show_interval(low, high),
        evaluation.trivial_answers.get(name, ""),
    )


def beats_trivial(score: float, floor: float | None, *, higher_is_better: bool) -> bool:
    """Return whether a score is better than that of the best trivial answer; also if there is none."""
    if floor is None:
        return True
    return score > floor if higher_is_better else score < floor


def warn_if_trivial(metric: str, evaluation: Evaluation) -> None:
    """Warn if the best trivial answer scores as well as a run, with what to change."""
    if metric not in evaluation.floors or metric not in evaluation.higher_is_better:
        return  # the record of an earlier version has neither
    score, floor = (evaluation.scores or {})[metric], evaluation.floors[metric]
    if beats_trivial(score, floor, higher_is_better=evaluation.higher_is_better[metric]):
        return
    console.warn(
        f'dev {metric}: no better than the best trivial answer, "{evaluation.trivial_answers[metric]}". '
        "Train longer (--epochs), on more rows (--data), or at another learning rate (--learning-rate)"
    )
