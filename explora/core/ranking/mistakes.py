"""The most serious errors of a run, or the rows on which two runs differ most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from explora.core.config.registry import TASKS
from explora.core.ranking.comparison import row_values
from explora.core.ranking.scoring import Entry
from explora.core.tasks.contract import Example


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A row with the answers of one or two runs.

    text: by column. answers: one per run, with the predicted class and its probability, or with the nats per
    token of the row. label: None for plain text.
    """

    file: str
    line: int
    id: str
    text: Mapping[str, str]
    label: str | None
    answers: Sequence[Mapping[str, Any]]


def worst_rows(entry: Entry, count: int) -> list[Mistake]:
    """Return the `count` most confident wrong answers, or the rows with the most nats per token."""
    if not _has_classes(entry):
        values = row_values(entry.score)
        order = sorted(range(len(values)), key=lambda row: -values[row])
        return [_mistake(row, [entry]) for row in order[:count]]
    answers = entry.evaluation.predictions
    wrong = [row for row, each in enumerate(answers) if each["prediction"] != each["label"]]
    wrong.sort(key=lambda row: -answers[row]["probability"])
    return [_mistake(row, [entry]) for row in wrong[:count]]


def differing_rows(first: Entry, second: Entry, count: int) -> list[Mistake]:
    """Return `count` rows with different predictions, the most confident first.

    For text these are the rows whose nats per token differ most.
    """
    if not _has_classes(first):
        pairs = list(zip(row_values(first.score), row_values(second.score), strict=True))
        order = sorted(range(len(pairs)), key=lambda row: -abs(pairs[row][0] - pairs[row][1]))
        return [_mistake(row, [first, second]) for row in order[:count]]
    answers = list(zip(first.evaluation.predictions, second.evaluation.predictions, strict=True))
    rows = [row for row, (one, two) in enumerate(answers) if one["prediction"] != two["prediction"]]
    rows.sort(key=lambda row: -answers[row][0]["probability"] - answers[row][1]["probability"])
    return [_mistake(row, [first, second]) for row in rows[:count]]


def _has_classes(entry: Entry) -> bool:
    return any("label" in each for each in entry.evaluation.predictions)


def _mistake(row: int, entries: Sequence[Entry]) -> Mistake:
    example, predictions = entries[0].rows.found.examples[row], entries[0].evaluation.predictions
    return Mistake(
        file=example.row.file,
        line=example.row.line,
        id=example.row.id,
        text=_text(example, entries[0]),
        label=predictions[row]["label"] if _has_classes(entries[0]) else None,
        answers=[_answer(entry, row) for entry in entries],
    )


def _text(example: Example, entry: Entry) -> Mapping[str, str]:
    """Return the row's columns without the label; a row of plain text is decoded."""
    label = TASKS[entry.task].label
    columns = {name: value for name, value in example.row.values.items() if name != label}
    return columns or {"text": entry.tokenizer.decode(example.ids)}


def _answer(entry: Entry, row: int) -> dict[str, Any]:
    if not _has_classes(entry):
        return {"nats_per_token": row_values(entry.score)[row]}
    found = entry.evaluation.predictions[row]
    return {"prediction": found["prediction"], "probability": found["probability"]}
