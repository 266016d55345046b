"""`explora eval --decoding`: the settings of decoding side by side, on the same poems with the same seeds."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from explora import console
from explora.errors import UsageError

if TYPE_CHECKING:
    from explora.core.config.concerns import DataConfig
    from explora.core.judging.decoding import ScoredDecoding
    from explora.core.runs.assemble import Session

TEMPERATURES, TOP_PS, PENALTIES = "0.7,1", "0.9,1", "1,1.2"
NUM = 4

_decoding = partial(typer.Option, rich_help_panel="Decoding")

Decoding = Annotated[
    bool,
    _decoding(
        "--decoding", metavar="", help="Score greedy decoding and each combination of the lists below."
    ),
]
Temperatures = Annotated[
    str, _decoding("--temperature", metavar="T,...", help="Temperatures to compare, with --decoding.")
]
TopPs = Annotated[str, _decoding("--top-p", metavar="P,...", help="Values of top-p to compare.")]
Penalties = Annotated[
    str, _decoding("--repetition-penalty", metavar="X,...", help="Repetition penalties to compare.")
]
Num = Annotated[
    int, _decoding("--num", "-n", metavar="N", min=1, help="Continuations per poem and combination.")
]


def numbers(option: str, text: str) -> list[float]:
    """`0.7,1.0` -> [0.7, 1.0]. Raises UsageError."""
    try:
        found = [float(word) for word in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(map(math.isfinite, found)):
        raise UsageError(f"{option}: {text!r} is no list of numbers", f"{option} 0.7,1.0")
    return found


def compare_decodings(
    session: Session,
    config: DataConfig,
    trained_on: DataConfig,
    split: str | None,
    lists: tuple[str, str, str],
    *,
    num: int,
    seed: int,
    batch_size: int,
    json: bool,
) -> None:
    """Score each combination of `lists`: temperatures, values of top-p, repetition penalties."""
    from explora.core.judging.decoding import sampling_grid, score_decodings
    from explora.core.runs.evaluate import rows_to_score, training_rows

    options = ("--temperature", "--top-p", "--repetition-penalty")
    grid = sampling_grid(*(numbers(option, text) for option, text in zip(options, lists, strict=True)))
    _, found = rows_to_score(session, config, trained_on, split)
    train = training_rows(session, trained_on)
    rows = []
    for row in score_decodings(
        session, found.examples, train, grid, seed=seed, num=num, batch_size=batch_size
    ):
        rows.append(row)
        console.note(f"{len(rows)} of {len(grid)} combinations")
        if json:
            console.result_json(row.to_json())
    if not json:
        _show(rows)


def _show(rows: list[ScoredDecoding]) -> None:
    names = list(rows[0].scores)
    cells = [(_words(row), *(f"{row.scores[name]:.3g}" for name in names)) for row in rows]
    console.result_table(("temperature, top-p, penalty", *names), cells)


def _words(row: ScoredDecoding) -> str:
    sampling = row.sampling
    how = "greedy" if sampling.greedy else f"{sampling.temperature:g}, {sampling.top_p:g}"
    return f"{how}, {sampling.repetition_penalty:g}"
