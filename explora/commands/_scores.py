"""Scores as a table: value, 95 % interval, and the floor that needs no learning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from explora import console

if TYPE_CHECKING:
    from explora.core.tasks.contract import Evaluation


def show_scores(title: str, evaluation: Evaluation) -> None:
    """Write the scores of an evaluation that has some."""
    rows = []
    for name, value in (evaluation.scores or {}).items():
        low, high = evaluation.intervals.get(name, (None, None))
        floor = evaluation.floors.get(name)
        interval = "" if low is None else f"{low:.4g} to {high:.4g}"
        rows.append((name, f"{value:.4g}", interval, "" if floor is None else f"{floor:.4g}"))
    console.result_table((title, "value", "95 % interval", "floor"), rows)
    for note in evaluation.notes:
        console.note(note)
