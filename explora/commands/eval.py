"""`explora eval`: score runs, and show scores with intervals and the best trivial answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from explora import console
from explora.commands import _blind as b
from explora.commands import _decoding as d
from explora.commands import _options as o
from explora.commands._comparison import inspect_run
from explora.commands._environment import prepare_answers
from explora.commands._output_files import Predictions, check_not_read, check_writable
from explora.commands._plain_text import warn_if_tables
from explora.commands._precision import warn_if_emulated
from explora.commands._ranking import rank_runs
from explora.commands._reports import ReportFile, check_report, save_report, this_command
from explora.commands._scored_runs import Request, warn_if_unfinished
from explora.commands._scores import show_scores
from explora.commands._sessions import open_for_rows
from explora.commands._settings import with_settings
from explora.commands._skipped_rows import show_skipped
from explora.core.config.concerns import EncodingConfig
from explora.core.config.precedence import resolve
from explora.core.config.registry import TASKS
from explora.core.config.run_config import field_names
from explora.core.sweeps.plan import PLAN_FILE
from explora.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from explora.core.runs.assemble import Session
    from explora.core.runs.evaluate import Rows, Scored
    from explora.core.tasks.contract import Evaluation

SPLITS = ("dev", "test", "train")
BATCH_SIZE = 32
WHOLE_CONTEXT = 1 << 20  # more tokens than any model reads: a stream is scored on windows as long as it can

Split = Annotated[
    str | None,
    typer.Option(
        "--split",
        metavar="dev|test|train",
        rich_help_panel="Data",
        help="Split to score, of a folder or a known data set (default: dev).",
    ),
]
Errors = Annotated[
    int | None,
    typer.Option(
        "--errors",
        metavar="N",
        min=1,
        rich_help_panel="Comparison",
        help="Show the N most confident mistakes; for texts, the N rows with the highest loss; with "
        "--against, N rows where the two runs differ (default: none).",
    ),
]
Forgetting = Annotated[
    bool,
    typer.Option(
        "--forgetting",
        metavar="",
        rich_help_panel="Comparison",
        help="Measure the loss on general English text, before training (the base) and after.",
    ),
]

CourseLabels = Annotated[
    str | None,
    typer.Option(
        "--course-labels",
        metavar="digits|ids",
        rich_help_panel="Output",
        help="Labels in a file of the course's format: 0 and 1, or the token ids of the answers "
        "(default: digits).",
    ),
]


ROWS = ("data", "columns", "format", "encoding", "skip_bad")
ENCODING = tuple(field_names(EncodingConfig))
ANSWERS = ("batch_size", "device", "amp", "threads")


@with_settings(
    *(*ROWS, *ENCODING, "model", "tokenizer", *ANSWERS),
    defaults={
        "data": "the data of the run",
        "columns": "those of the run, else the task's names",
        "batch_size": str(BATCH_SIZE),
        "amp": "off",
        "threads": "torch's choice",
    },
    panels={"batch_size": "Machine"},
)
def evaluate(
    task: o.Task,
    runs: o.Runs = None,
    *,
    settings: dict[str, Any],
    split: Split = None,
    predictions: Predictions = None,
    against: o.Against = None,
    errors: Errors = None,
    forgetting: Forgetting = False,
    blind: b.Blind = False,
    page: b.Page = None,
    votes: b.Votes = None,
    decoding: d.Decoding = False,
    temperature: d.Temperatures = None,
    top_p: d.TopPs = None,
    repetition_penalty: d.Penalties = None,
    num: d.Num = None,
    seed: o.Seed = o.SEED,
    course_labels: CourseLabels = None,
    report: ReportFile = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Score a run, or rank several runs on the same rows.

    Each score has a 95 % interval, and beside it the score of the best trivial answer, such as "always yes".
    Scores are computed in fp32 unless you set `--amp`.

    RUN is a run folder, a PEFT adapter, a model folder or a hub id. `--data -` reads rows from standard
    input. Rows without labels give predictions only. The `probability` of a prediction is the probability of
    the predicted class.

    In a ranking, runs that share a letter are not distinguishable. Runs that differ only in their random seed
    share a line.

    Examples:

    `explora eval paraphrase`

    `explora eval sentiment runs/sst --data sst --split test --predictions sst-test.csv`

    `cat pairs.jsonl | explora eval paraphrase --data - --json`

    `explora eval sentiment runs/*`

    `explora eval sentiment runs/lora --against runs/full --errors 10`

    `explora eval sonnet runs/lora --against human --blind`
    """
    if split is not None and split not in SPLITS:
        raise UsageError(f"no split {split!r}{did_you_mean(split, SPLITS)}", f"splits: {', '.join(SPLITS)}")
    if predictions is not None:
        check_writable("--predictions", predictions, reads=[settings.get("data")])
    if report is not None:
        check_report(report, reads=[settings.get("data")])
    course_ids = _course_ids(task, course_labels, predictions)
    encoding, rows, answers = (_some(settings, names) for names in (ENCODING, ROWS, ANSWERS))
    asked, _ = resolve(task, {"amp": "off"} | encoding | rows | answers)
    if TASKS[task].stream:
        encoding.setdefault("max_length", WHOLE_CONTEXT)

    # a shell's `SWEEP/*` names the plan of the sweep too
    names = [name for name in runs or [] if Path(name).name != PLAN_FILE]
    looks_closer = bool(against or errors or forgetting)
    _check_combination(names, against, errors)
    if predictions is not None and (len(names) > 1 or looks_closer):
        raise UsageError(
            "--predictions writes the predictions of one run",
            "leave out --against, --errors, --forgetting",
        )
    grid = d.parse_grid(decoding, temperature, top_p, repetition_penalty, num)
    if grid is not None and (len(names) > 1 or looks_closer or predictions is not None):
        raise UsageError(
            "--decoding compares settings of one run", "leave other comparisons and --predictions out"
        )
    judged = b.check_options(names, against, blind=blind, page=page, votes=votes, data=settings.get("data"))
    if report is not None and (judged or grid is not None):
        raise UsageError("--report shows scores and rankings", "leave out --blind, --decoding or --report")
    prepare_answers()

    from explora.core.runtime.resolve import resolve_for_answers

    warn_if_emulated(asked.runtime)
    warn_if_tables(task, asked.data)
    request = Request(
        task=task,
        names=names,
        data=rows,
        asked=asked.data,
        encoding=encoding,
        split=split,
        runtime=resolve_for_answers(asked.runtime),
        model=settings.get("model"),
        tokenizer=settings.get("tokenizer"),
        batch_size=settings.get("batch_size", BATCH_SIZE),
        forgetting=forgetting,
    )
    if judged and against is not None:
        b.compare_blindly(request, against, seed=seed, page=page, votes=votes, json=json)
    elif grid is not None:
        d.compare_decodings(request, grid, seed=seed, json=json)
    elif len(names) > 1:
        rank_runs(request, json=json, report=report)
    elif looks_closer:
        inspect_run(request, against, errors, json=json, report=report)
    else:
        _score_one(request, predictions, course_ids, json=json, report=report)


def _score_one(
    request: Request,
    predictions: Path | None,
    course_ids: Mapping[str, str] | None,
    *,
    json: bool,
    report: Path | None,
) -> None:
    from explora.core.runs.evaluate import Scored, evaluate_rows, read_rows, write_predictions

    session, config, trained_on = open_for_rows(request)
    for option, file in (("--predictions", predictions), ("--report", report)):
        if file is not None:
            check_not_read(option, file, [config.data, config.dev, trained_on.data, trained_on.dev])
    rows = read_rows(session, config, trained_on, request.split)
    console.note(f"{session.label}, on {rows.described}")
    if session.source is not None:
        warn_if_unfinished(session.source)
    evaluation = evaluate_rows(session, rows, trained_on, request.batch_size)
    scored = Scored(split=rows.split, data=rows.data, skipped=rows.found.skipped, evaluation=evaluation)
    show_skipped(scored.skipped, len(rows.found.examples))
    if json:
        console.result_json(scored.to_json(session))
    else:
        _show(scored, predictions is None)
    if predictions is not None:
        write_predictions(predictions, session, evaluation, course_ids)
        console.note(f"{len(evaluation.predictions):,} predictions in {predictions}")
    if report is not None:
        _report(report, session, rows, evaluation)


def _report(file: Path, session: Session, rows: Rows, evaluation: Evaluation) -> None:
    from explora.core.reports.evaluation import Evaluated, evaluation_report

    if evaluation.scores is None:
        console.warn(f"no report in {file}: rows without labels have no scores")
        return
    found = Evaluated(
        task=session.task_name,
        label=session.label,
        metric=session.task.metric,
        rows=rows,
        evaluation=evaluation,
    )
    save_report(file, evaluation_report(this_command(), found))


def _check_combination(names: list[str], against: str | None, errors: int | None) -> None:
    """Raise UsageError for options that do not apply to several runs."""
    if len(names) > 1 and against is not None:
        raise UsageError(
            "--against compares one run with another", "leave --against out: all runs are ranked"
        )
    if len(names) > 1 and errors is not None:
        raise UsageError("--errors shows the mistakes of one run", "name one RUN, or two with --against")


def _some(settings: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: settings[name] for name in names if name in settings}


def _course_ids(task: str, course_labels: str | None, predictions: Path | None) -> Mapping[str, str] | None:
    """Return the token ids to write instead of labels. Raises UsageError if that cannot be done."""
    if course_labels is None:
        return None
    if course_labels not in ("digits", "ids"):
        raise UsageError(f"--course-labels {course_labels!r} is not one of digits, ids")
    if predictions is None or predictions.suffix == ".jsonl":
        raise UsageError("--course-labels needs a file in the course's format", "--predictions FILE.csv")
    if not TASKS[task].course_ids:
        raise UsageError(f"--course-labels: {task} has no labels that are token ids", "leave it out")
    return TASKS[task].course_ids if course_labels == "ids" else None


def _show(scored: Scored, with_predictions: bool) -> None:
    evaluation = scored.evaluation
    if evaluation.scores is None:
        console.note("the rows have no labels: no scores")
        if with_predictions:
            for item in evaluation.predictions:
                console.result_json(item)
        return
    show_scores(f"{scored.split} ({evaluation.examples:,})", evaluation)
