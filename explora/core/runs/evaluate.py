"""Score a session on data, and write predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from explora.core.config.concerns import DataConfig
from explora.core.config.registry import TASKS
from explora.core.data.columns import RecordedColumns
from explora.core.data.text_files import STDIN
from explora.core.files import write_atomically
from explora.core.runs.assemble import Session
from explora.core.runs.record import read_record
from explora.core.tasks.contract import Evaluation, Example, Split
from explora.errors import DataError, UsageError

SAMPLES = "samples"  # the name of the package's sample data in output


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Encoded rows and their source.

    split: "all" for a whole file. held_out: the rows are the part of a training file that was set aside.
    """

    split: str
    data: str
    found: Split
    held_out: bool = False

    @property
    def described(self) -> str:
        """Description of the rows for messages."""
        count, data = len(self.found.examples), "the sample data" if self.data == SAMPLES else self.data
        if self.split == "all":
            rows = "the only row" if count == 1 else f"all {count:,} rows"
            return f"{rows} of {'standard input' if data == STDIN else data}"
        if self.held_out:
            return f"the {count:,} rows of {data} that are held out from training"
        return f"the {count:,} {self.split} rows of {data}"


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
            "notes": list(evaluation.notes),
            "predictions": list(evaluation.predictions) if evaluation.scores is None else None,
        }


def recorded_data(source: Path | None) -> DataConfig:
    """Return the data settings that a run was trained with; the sample data if there is no record."""
    record = read_record(source) if source is not None and source.is_dir() else None
    return record.run.data if record else DataConfig()


def score(
    session: Session, config: DataConfig, trained_on: DataConfig, split: str | None, batch_size: int
) -> Scored:
    """Score `session` on the rows of `config`; see `read_rows` and `evaluate_rows`."""
    rows = read_rows(session, config, trained_on, split)
    evaluation = evaluate_rows(session, rows, trained_on, batch_size)
    return Scored(split=rows.split, data=rows.data, skipped=rows.found.skipped, evaluation=evaluation)


def evaluate_rows(session: Session, rows: Rows, trained_on: DataConfig, batch_size: int) -> Evaluation:
    """Score `session` on rows that its task encoded.

    A task whose trivial answers need training rows reads them from `trained_on`.
    """
    train = training_rows(session, trained_on)
    return session.task.evaluate(session.model, rows.found.examples, train, batch_size)


def read_rows(session: Session, config: DataConfig, trained_on: DataConfig, split: str | None) -> Rows:
    """Read and encode the rows of `config`: all of a file, or one split of a folder or a known name.

    If training held out a part of this file, only that part is read.
    """
    if config.dev is not None and split in (None, "dev"):  # the dev file that a run was trained with
        return Rows(split="dev", data=config.dev, found=session.task.load(config, "dev"))
    data = config.data or SAMPLES
    whole_file = config.data == STDIN or (config.data is not None and Path(config.data).is_file())
    if whole_file and config.data is not None and not _holds_out(trained_on, config.data):
        if split is not None and config.data == STDIN:
            raise UsageError("standard input has no splits", "leave --split out")
        if split is None:
            return Rows(split="all", data=data, found=session.task.read(config.data, config))
    name = split or "dev"
    found = session.task.load(config, name)
    return Rows(split=name, data=data, found=found, held_out=whole_file and name == "dev")


def _holds_out(trained_on: DataConfig, file: str) -> bool:
    """Return whether a training on `trained_on` set a part of this file aside."""
    if trained_on.data is None or trained_on.dev is not None or file == STDIN:
        return False
    return Path(trained_on.data).resolve() == Path(file).resolve()


def training_rows(session: Session, trained_on: DataConfig) -> Sequence[Example]:
    """Return the training examples; none if they are not needed or not readable.

    Trivial answers that need them are then left out.
    """
    if not TASKS[session.task_name].floor_needs_train:
        return []
    try:
        return session.task.load(replace(trained_on, skip_bad=True), "train").examples
    except DataError:
        return []


def with_recorded_columns(config: DataConfig, trained_on: DataConfig) -> DataConfig:
    """Return the data settings of a command, with the run's column mapping if the command has none."""
    if config.columns:
        return config
    return replace(config, columns=RecordedColumns(trained_on.columns))


def write_predictions(
    file: Path, session: Session, evaluation: Evaluation, course_ids: Mapping[str, str] | None = None
) -> None:
    """Write predictions: JSON lines for .jsonl, else the CS224N course's submission format.

    `course_ids` are token ids that replace the labels, by label; the course's own code writes them.
    """
    import json

    if file.suffix == ".jsonl":
        lines = [json.dumps(item, ensure_ascii=False) for item in evaluation.predictions]
    else:
        items = evaluation.predictions
        if course_ids:
            items = [{**item, "prediction": course_ids[item["prediction"]]} for item in items]
        lines = session.task.prediction_lines(items)
    write_atomically(file, "\n".join(lines) + "\n")
