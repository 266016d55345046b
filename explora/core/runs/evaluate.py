"""Score a session on data, and write its scores and predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from explora.core.config.concerns import DataConfig
from explora.core.config.registry import TASKS
from explora.core.data.text_files import STDIN
from explora.core.files import write_atomically
from explora.core.runs.assemble import Session
from explora.core.runs.record import read_record
from explora.core.tasks.contract import Evaluation, Example, Split
from explora.errors import DataError, UsageError


@dataclass(frozen=True, kw_only=True)
class Scored:
    """An evaluation and the data that it was computed on."""

    split: str
    data: str
    skipped: Sequence[str]
    evaluation: Evaluation

    def to_json(self, session: Session) -> dict[str, Any]:
        """Return the object of `eval --json`. It has the predictions only if there are no scores."""
        evaluation = self.evaluation
        return {
            "task": session.task_name,
            "run": session.label,
            "data": self.data,
            "split": self.split,
            "examples": evaluation.examples,
            "skipped": len(self.skipped),
            **evaluation.to_json(),
            "predictions": list(evaluation.predictions) if evaluation.scores is None else None,
        }


def recorded_data(source: Path | None) -> DataConfig:
    """Return the data settings that a run was trained with; without a record, those of the sample data."""
    record = read_record(source) if source is not None and source.is_dir() else None
    return record.run.data if record else DataConfig()


def score(
    session: Session, config: DataConfig, trained_on: DataConfig, split: str | None, batch_size: int
) -> Scored:
    """Score `session` on the rows of `config`: all of a file, or one split of a folder or a known name.

    A task whose trivial answers need training rows reads them from `trained_on`.
    """
    name, found = _rows(session, config, trained_on, split)
    train = _training_rows(session, trained_on)
    evaluation = session.task.evaluate(session.model, found.examples, train, batch_size)
    return Scored(split=name, data=config.data or "samples", skipped=found.skipped, evaluation=evaluation)


def _rows(
    session: Session, config: DataConfig, trained_on: DataConfig, split: str | None
) -> tuple[str, Split]:
    whole_file = config.data == STDIN or (config.data is not None and Path(config.data).is_file())
    if whole_file and config.data is not None and config != trained_on:
        if split is not None and config.data == STDIN:
            raise UsageError("standard input has no splits", "leave --split out")
        if split is None:
            return "all", session.task.read(config.data, config)
    return split or "dev", session.task.load(config, split or "dev")


def _training_rows(session: Session, trained_on: DataConfig) -> Sequence[Example]:
    """Return the training examples, or none if they cannot be read: such trivial answers are left out."""
    if not TASKS[session.task_name].floor_needs_train:
        return []
    try:
        return session.task.load(replace(trained_on, skip_bad=True), "train").examples
    except DataError:
        return []


def write_predictions(file: Path, session: Session, evaluation: Evaluation) -> None:
    """Write predictions: JSON lines for .jsonl, else the CS224N course's submission format."""
    import json

    if file.suffix == ".jsonl":
        lines = [json.dumps(item, ensure_ascii=False) for item in evaluation.predictions]
    else:
        lines = session.task.prediction_lines(evaluation.predictions)
    write_atomically(file, "\n".join(lines) + "\n")
