"""Scores as a table: value, 95 % interval, which way is better, and the best trivial answer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from explora import console

if TYPE_CHECKING:
    from explora.core.tasks.contract import Evaluation

HEADER = ("value", "trivial", "better", "95 % interval", "trivial answer")  # by importance
BETTER = {True: "higher", False: "lower", None: ""}  # a record of an earlier version does not say


def show_interval(low: float, high: float) -> str:
    """Return an interval as text; its ends are NaN where nothing can be estimated."""
    return "unknown" if math.isnan(low) or math.isnan(high) else f"{low:.4g} to {high:.4g}"


def show_scores(title: str, evaluation: Evaluation) -> None:
    """Write the scores of an evaluation that has some."""
    rows = []
    for name, value in (evaluation.scores or {}).items():
        low, high = evaluation.intervals[name]
        better = BETTER[evaluation.higher_is_better.get(name)]
        floor = evaluation.floors.get(name)
        trivial = "" if floor is None else f"{floor:.4g}"
        answer = evaluation.trivial_answers.get(name, "")
        rows.append((name, f"{value:.4g}", trivial, better, show_interval(low, high), answer))
    console.result_table((title, *HEADER), rows)
    for note in evaluation.notes:
        console.note(note)
    if evaluation.doubt:
        console.note(evaluation.doubt)
