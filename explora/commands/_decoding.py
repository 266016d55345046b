"""`explora eval --decoding`: compare settings of decoding on the same poems with the same seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from explora import console
from explora.commands._scored_runs import Request
from explora.commands._sessions import open_for_rows
from explora.errors import UsageError

if TYPE_CHECKING:
    from explora.core.judging.decoding import ScoredDecoding

TEMPERATURES, TOP_PS, PENALTIES = "0.7,1", "0.9,1", "1,1.2"
NUM = 4

_decoding = partial(typer.Option, rich_help_panel="Decoding")

Decoding = Annotated[
    bool,
    _decoding("--decoding", metavar="", help="Score greedy decoding and each combination of these lists."),
]
Temperatures = Annotated[
    str | None,
    _decoding("--temperature", metavar="T,...", help=f"Temperatures to compare (default: {TEMPERATURES})."),
]
TopPs = Annotated[
    str | None, _decoding("--top-p", metavar="P,...", help=f"Values of top-p to compare (default: {TOP_PS}).")
]
Penalties = Annotated[
    str | None,
    _decoding(
        "--repetition-penalty",
        metavar="X,...",
        help=f"Repetition penalties to compare (default: {PENALTIES}).",
    ),
]
Num = Annotated[
    int | None,
    _decoding(
        "--num", "-n", metavar="N", min=1, help=f"Continuations per poem and setting (default: {NUM})."
    ),
]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Values whose combinations are compared, and the number of continuations per poem."""

    temperatures: Sequence[float]
    top_ps: Sequence[float]
    penalties: Sequence[float]
    num: int


def parse_grid(
    decoding: bool, temperature: str | None, top_p: str | None, penalty: str | None, num: int | None
) -> Grid | None:
    """Return the values to compare, None without `decoding`. Raises UsageError for a malformed list."""
    given = {"--temperature": temperature, "--top-p": top_p, "--repetition-penalty": penalty, "--num": num}
    if not decoding:
        for option, value in given.items():
            if value is not None:
                raise UsageError(f"{option} is for the comparison of decoding settings", "add --decoding")
        return None
    return Grid(
        temperatures=_numbers("--temperature", temperature or TEMPERATURES),
        top_ps=_numbers("--top-p", top_p or TOP_PS),
        penalties=_numbers("--repetition-penalty", penalty or PENALTIES),
        num=num or NUM,
    )


def _numbers(option: str, text: str) -> list[float]:
    """Parse `0.7,1.0` to [0.7, 1.0]. Raises UsageError."""
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise UsageError(f"{option}: {text!r} is not a list of numbers", f"{option} 0.7,1.0") from None


def compare_decodings(request: Request, grid: Grid, *, seed: int, json: bool) -> None:
    """Score each combination of the grid's values on the rows of a file or a split."""
    from explora.core.judging.decoding import sampling_grid, score_decodings
    from explora.core.runs.evaluate import read_rows, training_rows

    settings = sampling_grid(grid.temperatures, grid.top_ps, grid.penalties)
    session, config, trained_on = open_for_rows(request)
    poems = read_rows(session, config, trained_on, request.split)
    console.note(f"{session.label}, on {poems.described}")
    train = training_rows(session, trained_on)
    rows = []
    for row in score_decodings(
        session,
        poems.found.examples,
        train,
        settings,
        seed=seed,
        num=grid.num,
        batch_size=request.batch_size,
    ):
        rows.append(row)
        console.note(f"{len(rows)} of {len(settings)} settings")
        if json:
            console.result_json(row.to_json())
    if not json:
        _show(rows)


def _show(rows: list[ScoredDecoding]) -> None:
    names = [name for name in rows[0].scores if not name.startswith("course_")]  # those are in --json
    cells = [(_words(row), *(f"{row.scores[name]:.3g}" for name in names)) for row in rows]
    console.result_table(("temperature, top-p, penalty", *names), cells)


def _words(row: ScoredDecoding) -> str:
    sampling = row.sampling
    how = "greedy" if sampling.greedy else f"{sampling.temperature:g}, {sampling.top_p:g}"
    return f"{how}, {sampling.repetition_penalty:g}"
