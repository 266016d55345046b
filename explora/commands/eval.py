"""`explora eval`: open a run, score it, show scores with intervals and the best trivial answers."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from explora import console
from explora.commands import _blind as b
from explora.commands import _decoding as d
from explora.commands import _options as o
from explora.commands._environment import prepare_answers
from explora.commands._precision import warn_if_emulated
from explora.commands._predictions import Predictions, check_predictions
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


ROWS = ("data", "columns", "format", "skip_bad")
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
    against: o.Against = None,
    blind: b.Blind = False,
    page: b.Page = None,
    votes: b.Votes = None,
    decoding: d.Decoding = False,
    temperature: d.Temperatures = None,
    top_p: d.TopPs = None,
    repetition_penalty: d.Penalties = None,
    num: d.Num = None,
    seed: o.Seed = o.SEED,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Score a run, each score with a 95 % interval and the score of the best trivial answer.

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
    check_predictions(predictions)
    grid = d.parse_grid(decoding, temperature, top_p, repetition_penalty, num)
    judged = b.check_options(run, against, blind=blind, page=page, votes=votes)
    encoding, rows, answers = (_some(settings, names) for names in (ENCODING, ROWS, ANSWERS))
    asked, _ = resolve(task, {"amp": "off"} | encoding | rows | answers)
    if TASKS[task].stream:
        encoding.setdefault("max_length", WHOLE_CONTEXT)

    prepare_answers()

    from explora.core.judging.comparison import compare
    from explora.core.judging.continuing import rows_to_continue
    from explora.core.runs.evaluate import recorded_data, score, write_predictions
    from explora.core.runs.open import open_run
    from explora.core.runtime.resolve import resolve_for_answers

    warn_if_emulated(asked.runtime)
    runtime = resolve_for_answers(asked.runtime)
    opened = partial(
        open_run,
        task,
        model=settings.get("model"),
        tokenizer=settings.get("tokenizer"),
        runtime=runtime,
        encoding=encoding,
    )
    session = opened(source=run)
    session.settle()
    trained_on = recorded_data(session.source)
    config = asked.data if "data" in rows else dataclasses.replace(trained_on, **rows)
    console.note(f"{session.label}, on {config.data or 'the sample data'}")
    batch_size = settings.get("batch_size", BATCH_SIZE)
    if judged and against is not None:
        opponent = None if against == b.HUMAN else opened(source=against)
        poems = rows_to_continue(session, config, trained_on, split)
        comparison = compare(session, opponent, poems, seed=seed, batch_size=batch_size)
        b.judge(comparison, b.votes_file(task, run, against), page=page, votes=votes, json=json)
        return
    if grid is not None:
        d.compare_decodings(
            session, config, trained_on, split, grid, seed=seed, batch_size=batch_size, json=json
        )
        return
    scored = score(session, config, trained_on, split, batch_size)
    for message in scored.skipped:
        console.warn(f"skipped: {message}")
    if json:
        console.result_json(scored.to_json(session))
    else:
        _show(scored, predictions is None)
    if predictions is not None:
        write_predictions(predictions, session, scored.evaluation)
        console.note(f"{len(scored.evaluation.predictions):,} predictions in {predictions}")


def _some(settings: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: settings[name] for name in names if name in settings}


def _show(scored: Scored, with_predictions: bool) -> None:
    evaluation = scored.evaluation
    if evaluation.scores is None:
        console.note(f"{evaluation.examples:,} rows without labels: no scores")
        if with_predictions:
            for item in evaluation.predictions:
                console.result_json(item)
        return
    show_scores(f"{scored.split} ({evaluation.examples:,})", evaluation)
