"""`explora eval A --against B --blind`: compare continuations by votes, without seeing who wrote which."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from explora import console
from explora.commands._output_files import check_writable
from explora.commands._scored_runs import Request
from explora.commands._sessions import open_for_rows, open_session
from explora.commands._voting import collect_votes
from explora.errors import DataError, UsageError

if TYPE_CHECKING:
    from explora.core.judging.outcome import Outcome

HUMAN = "human"  # as --against: the people who wrote the texts

_comparison = partial(typer.Option, rich_help_panel="Comparison")

Blind = Annotated[
    bool,
    _comparison(
        "--blind",
        metavar="",
        help="Vote on pairs of continuations without seeing who wrote which. --against names the other "
        "writer: a run, or human.",
    ),
]
Page = Annotated[
    Path | None,
    _comparison(
        "--page",
        metavar="FILE.html",
        help="Write the blind comparison as an HTML page (default: vote in the terminal).",
    ),
]
Votes = Annotated[
    Path | None,
    _comparison(
        "--votes",
        metavar="FILE",
        help="Show the result of the votes that a page or the terminal saved (default: ask for votes).",
    ),
]


def check_options(
    names: Sequence[str],
    against: str | None,
    *,
    blind: bool,
    page: Path | None,
    votes: Path | None,
    data: str | None,
) -> bool:
    """Return whether the options ask for a blind comparison. Raises UsageError for contradictions."""
    asked = [name for name, given in (("--blind", blind), ("--page", page), ("--votes", votes)) if given]
    if asked and against is None:
        raise UsageError(
            f"{asked[0]} compares two writers", "name the other: --against RUN, or --against human"
        )
    if HUMAN in names:
        raise UsageError("human is not a run", "explora eval TASK RUN --against human --blind")
    if page is not None and votes is not None:
        raise UsageError("--page writes a page, --votes reads its votes", "give one of them")
    if page is not None:
        check_writable("--page", page, reads=[data])
        if page.is_file() and page.suffix not in (".html", ".htm"):
            raise UsageError(
                f"--page: {page} exists and is not an HTML page", "name another file: --page FILE.html"
            )
    if votes is not None and not votes.is_file():
        raise DataError(
            "no such votes file",
            "vote in the terminal with --blind, or vote on the page of --page FILE.html and save the votes",
            file=str(votes),
        )
    return bool(asked)


def compare_blindly(
    request: Request, against: str, *, seed: int, page: Path | None, votes: Path | None, json: bool
) -> None:
    """Write the page; or read votes from a file or the terminal, and show the result of all votes."""
    from explora.core.judging.comparison import compare
    from explora.core.judging.continuing import rows_to_continue
    from explora.core.judging.outcome import outcome_of
    from explora.core.judging.page import write_page
    from explora.core.judging.votes import read_votes

    session, config, trained_on = open_for_rows(request)
    rows = rows_to_continue(session, config, trained_on, request.split)
    opponent = None if against == HUMAN else open_session(request, against)
    comparison = compare(session, opponent, rows, seed=seed, batch_size=request.batch_size)
    pairs = comparison.pairs
    console.note(f"A: {comparison.a}; B: {comparison.b}; {len(pairs)} pairs in random order")
    if page is not None:
        write_page(page, pairs)
        console.note(f"{page}: open it in a browser, vote, save the votes, and name their file with --votes")
        return
    file = votes or _votes_file(request, against)
    if votes is None and not collect_votes(pairs, file):
        return
    outcome = outcome_of(comparison, read_votes(file))
    if not outcome.poems:
        hint = "use the runs, the data and the --seed of the votes"
        raise DataError("no vote is about these texts", hint, file=str(file))
    if json:
        console.result_json(outcome.to_json())
    else:
        _show(outcome)


def _votes_file(request: Request, against: str) -> Path:
    """Return the file for votes of the terminal: beside run A, named after both writers."""
    a = Path(request.names[0] if request.names else Path("runs", request.task))
    folder = a.parent if a.is_dir() else Path("runs")
    return folder / f"{a.name}-against-{Path(against).name}.votes.jsonl"


def _show(outcome: Outcome) -> None:
    names = {"a": "A", "b": "B", "tie": "no difference"}
    rows = [(poem.id, names[poem.first], names[poem.second], names[poem.preferred]) for poem in outcome.poems]
    console.result_table(("poem", "1", "2", "preferred"), rows)
    test = outcome.test
    console.result("")
    console.result(f"A, {outcome.a}: {test.wins_a} wins")
    console.result(f"B, {outcome.b}: {test.wins_b} wins")
    console.result(f"no difference: {test.ties}, left out of the test")
    if test.share_a is not None:
        low, high = test.interval()
        console.result(
            f"A won {test.share_a:.0%} of {test.decided} decided pairs "
            f"(95 % interval {low:.0%} to {high:.0%}; sign test: p = {test.p_value:.3g})"
        )
