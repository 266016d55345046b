"""`explora eval`: open a run, score it, show scores with intervals and floors."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from explora import console
from explora.commands import _options as o
from explora.commands._environment import prepare_answers
from explora.commands._precision import warn_if_emulated
from explora.commands._scores import show_scores
from explora.commands._settings import with_settings
from explora.core.config.concerns import EncodingConfig
from explora.core.config.precedence import resolve
from explora.core.config.registry import TASKS
from explora.core.config.run_config import field_names
from explora.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from explora.core.runs.evaluate import Scored

SPLITS = ("dev", "test", "train")
BATCH_SIZE = 32
WHOLE_CONTEXT = 1 << 20  # more tokens than any model reads: a stream is scored on windows as long as it can

Split = Annotated[
    str | None,
    typer.Option(
        "--split", metavar="dev|test", rich_help_panel="Data", help="Of a folder or a known name; dev."
    ),
]
Predictions = Annotated[
    Path | None,
    typer.Option(
        "--predictions",
        metavar="FILE",
        rich_help_panel="Output",
        help="Write every prediction: .jsonl, or anything else for the CS224N course's submission format.",
    ),
]


CourseLabels = Annotated[
    str | None,
    typer.Option(
        "--course-labels",
        metavar="digits|ids",
        rich_help_panel="Output",
        help="Labels in the course's format: 0 and 1, or the ids of the answers' tokens (default: digits).",
    ),
]


ROWS = ("data", "columns", "format", "encoding", "skip_bad")
ENCODING = tuple(field_names(EncodingConfig))
ANSWERS = ("batch_size", "device", "amp", "threads")


@with_settings(
    *("model", "tokenizer", *ROWS, *ENCODING, *ANSWERS),
    defaults={"data": "that of the run", "batch_size": str(BATCH_SIZE), "amp": "off", "threads": "torch's"},
)
def evaluate(
    task: o.Task,
    run: o.Run = None,
    *,
    settings: dict[str, Any],
    split: Split = None,
    predictions: Predictions = None,
    course_labels: CourseLabels = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Score a run, each score with a 95 % interval and the floor that needs no learning.

    Scores are computed in fp32 unless `--amp` asks for something faster.

    RUN is a run folder, a PEFT adapter, a model folder or hub id; by default runs/TASK where it exists, else
    the base. `--data -` reads rows from standard input; rows without labels give predictions only.

    Examples:

    `explora eval paraphrase`

    `explora eval sentiment runs/sst --data sst --split test --predictions sst-test.csv`

    `cat pairs.jsonl | explora eval paraphrase --data - --json`
    """
    if split is not None and split not in SPLITS:
        raise UsageError(f"no split {split!r}{did_you_mean(split, SPLITS)}", f"splits: {', '.join(SPLITS)}")
    if predictions == Path("-"):
        raise UsageError("--predictions names a file", "--json has the predictions of rows without labels")
    if predictions is not None:
        _check_writable(predictions)
    course_ids = _course_ids(task, course_labels, predictions)
    encoding, rows, answers = (_some(settings, names) for names in (ENCODING, ROWS, ANSWERS))
    asked, _ = resolve(task, {"amp": "off"} | encoding | rows | answers)
    if TASKS[task].stream:
        encoding.setdefault("max_length", WHOLE_CONTEXT)

    prepare_answers()

    from explora.core.runs.evaluate import recorded_data, score, with_recorded_columns, write_predictions
    from explora.core.runs.open import open_run
    from explora.core.runtime.resolve import resolve_for_answers

    warn_if_emulated(asked.runtime)
    runtime = resolve_for_answers(asked.runtime)
    session = open_run(
        task,
        run,
        model=settings.get("model"),
        tokenizer=settings.get("tokenizer"),
        runtime=runtime,
        encoding=encoding,
    )
    session.settle()
    trained_on = recorded_data(session.source)
    config = with_recorded_columns(asked.data, trained_on) if "data" in rows else replace(trained_on, **rows)
    console.note(f"{session.label}, on {config.data or 'the sample data'}")
    scored = score(session, config, trained_on, split, settings.get("batch_size", BATCH_SIZE))
    for message in scored.skipped:
        console.warn(f"skipped: {message}")
    if json:
        console.result_json(scored.to_json(session))
    else:
        _show(scored, predictions is None)
    if predictions is not None:
        write_predictions(predictions, session, scored.evaluation, course_ids)
        console.note(f"{len(scored.evaluation.predictions):,} predictions in {predictions}")


def _some(settings: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: settings[name] for name in names if name in settings}


def _course_ids(task: str, course_labels: str | None, predictions: Path | None) -> Mapping[str, str] | None:
    """Return the token ids to write instead of labels. Raises UsageError where that makes no sense."""
    if course_labels is None:
        return None
    if course_labels not in ("digits", "ids"):
        raise UsageError(f"--course-labels {course_labels!r} is neither digits nor ids")
    if predictions is None or predictions.suffix == ".jsonl":
        raise UsageError("--course-labels needs a file in the course's format", "--predictions FILE.csv")
    if not TASKS[task].course_ids:
        raise UsageError(f"--course-labels: {task} has no labels that are token ids", "leave it out")
    return TASKS[task].course_ids if course_labels == "ids" else None


def _check_writable(predictions: Path) -> None:
    """Raise UsageError before the work where its result could not be kept."""
    if predictions.exists() and not (predictions.is_file() or predictions.is_dir()):  # a pipe
        return
    folder = next(each for each in predictions.absolute().parents if each.exists())
    if predictions.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        what = f"{predictions} is a folder" if predictions.is_dir() else f"nothing can be written to {folder}"
        raise UsageError(f"--predictions: {what}", "name a file in a folder of your own")


def _show(scored: Scored, with_predictions: bool) -> None:
    evaluation = scored.evaluation
    if evaluation.scores is None:
        console.note(f"{evaluation.examples:,} rows without labels: no scores")
        if with_predictions:
            for item in evaluation.predictions:
                console.result_json(item)
        return
    show_scores(f"{scored.split} ({evaluation.examples:,})", evaluation)
