"""`explora eval A --against B --blind`: a person compares continuations without knowing who wrote which."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from explora import console
from explora.commands._scored_runs import Request
from explora.commands._sessions import open_for_rows, open_session
from explora.errors import DataError, Interrupted, UsageError

if TYPE_CHECKING:
    from explora.core.judging.comparison import Comparison
    from explora.core.judging.pairs import Pair

HUMAN = "human"  # as --against: the people who wrote the texts
QUIT = "q"
NARROW = 100  # columns of a terminal below which the two texts are stacked
GAP = 3

_comparison = partial(typer.Option, rich_help_panel="Comparison")

Blind = Annotated[
    bool,
    _comparison(
        "--blind",
        metavar="",
        help="Compare continuations by eye, without knowing which is whose; --against names a run or human.",
    ),
]
Page = Annotated[
    Path | None,
    _comparison("--page", metavar="FILE.html", help="Write the blind comparison as an HTML page instead."),
]
Votes = Annotated[
    Path | None,
    _comparison("--votes", metavar="FILE", help="Show what the votes of a page or terminal say."),
]


def check_options(
    names: Sequence[str], against: str | None, *, blind: bool, page: Path | None, votes: Path | None
) -> bool:
    """Return whether a blind comparison is asked for. Raises UsageError for options that do not fit."""
    asked = [name for name, given in (("--blind", blind), ("--page", page), ("--votes", votes)) if given]
    if asked and against is None:
        raise UsageError(
            f"{asked[0]} compares two writers", "name the other: --against RUN, or --against human"
        )
    if HUMAN in names:
        raise UsageError("human is no run", "compare the run with it: explora eval TASK RUN --against human")
    if page is not None and votes is not None:
        raise UsageError("--page writes a page, --votes reads its votes", "give one of them")
    return bool(asked)


def compare_blindly(
    request: Request, against: str, *, seed: int, page: Path | None, votes: Path | None, json: bool
) -> None:
    """Write the page, or read `votes`, or collect votes in the terminal; show the result of all votes."""
    from explora.core.judging.comparison import compare
    from explora.core.judging.continuing import rows_to_continue
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
        console.note(f"{page}: open it in a browser, vote, save the votes, and give their file to --votes")
        return
    file = votes or _votes_file(request, against)
    if votes is None and not _collect(pairs, file):
        return
    found = read_votes(file)
    if not any(pair.key in found for pair in pairs):
        hint = "use the runs, the data and the --seed of the votes"
        raise DataError("no vote is about these texts", hint, file=str(file))
    _show(comparison, found, json)


def _votes_file(request: Request, against: str) -> Path:
    """Return where the votes of the terminal are kept: beside run A, named after both."""
    a = Path(request.names[0] if request.names else Path("runs", request.task))
    folder = a.parent if a.is_dir() else Path("runs")
    return folder / f"{a.name}-against-{Path(against).name}.votes.jsonl"


def _collect(pairs: Sequence[Pair], file: Path) -> bool:
    """Ask for the votes that are missing in a file; return whether all are there now."""
    from explora.core.judging.votes import add_vote, read_votes

    votes = read_votes(file) if file.exists() else {}
    missing = [pair for pair in pairs if pair.key not in votes]
    for done, pair in enumerate(missing, start=len(pairs) - len(missing)):
        choice = _ask(pair, f"pair {done + 1} of {len(pairs)}")
        if choice == QUIT:
            console.note(f"{done} of {len(pairs)} votes in {file}; the same command continues")
            return False
        add_vote(file, pair, choice)
    console.note(f"all {len(pairs)} votes in {file}")
    return True


def _ask(pair: Pair, title: str) -> str:
    from explora.core.judging.votes import CHOICES

    console.show(layout(pair, title, shutil.get_terminal_size().columns))
    console.show("1: the first, 2: the second, =: no difference, q: stop and go on later")
    while (key := _read_key()) not in (*CHOICES, QUIT):
        console.show(f"{key!r} is none of 1, 2, =, q")
    return key


def _read_key() -> str:
    """Return one key of a terminal, or the first letter of a line of other input; q at its end."""
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        return line.strip()[:1] if line else QUIT
    try:
        return typer.getchar()
    except EOFError:
        return QUIT
    except KeyboardInterrupt:  # a terminal in raw mode sends no signal
        import signal

        raise Interrupted(signal.SIGINT) from None


def layout(pair: Pair, title: str, width: int) -> str:
    """Return the prompt and both texts, side by side or, in a narrow terminal, one above the other."""
    prompt = ["", title, "", *_wrapped(pair.prompt, width - GAP), ""]
    if width < NARROW:
        stacked = ["1", *_wrapped(pair.first, width - GAP), "", "2", *_wrapped(pair.second, width - GAP)]
        return "\n".join([*prompt, *stacked, ""])
    column = (width - GAP) // 2
    left, right = ["1", *_wrapped(pair.first, column)], ["2", *_wrapped(pair.second, column)]
    rows = [f"{a:<{column}}{' ' * GAP}{b}".rstrip() for a, b in zip_longest(left, right, fillvalue="")]
    return "\n".join([*prompt, *rows, ""])


def _wrapped(text: str, width: int) -> list[str]:
    """Wrap each line of verse; what continues a line is indented."""
    return [
        piece
        for line in console.clean(text).split("\n")
        for piece in textwrap.wrap(line, max(width, 20), subsequent_indent="    ") or [""]
    ]


def _show(comparison: Comparison, votes: Mapping[str, str], json: bool) -> None:
    from explora.core.judging.votes import count_votes, winner

    voted = [pair for pair in comparison.pairs if pair.key in votes]
    test = count_votes(voted, votes)
    low, high = test.interval()
    poems: list[dict[str, Any]] = [
        {"id": pair.id, "first": "a" if pair.a_first else "b", "preferred": winner(pair, votes[pair.key])}
        for pair in voted
    ]
    if json:
        console.result_json(
            {
                "a": comparison.a,
                "b": comparison.b,
                "pairs": len(comparison.pairs),
                "votes": len(voted),
                "wins_a": test.wins_a,
                "wins_b": test.wins_b,
                "ties": test.ties,
                "share_a": test.share_a,
                "interval": [low, high],
                "p_value": test.p_value,
                "poems": poems,
            }
        )
        return
    names = {"a": "A", "b": "B", "tie": "no difference"}
    rows = [
        (
            item["id"],
            names[item["first"]],
            names["b" if item["first"] == "a" else "a"],
            names[item["preferred"]],
        )
        for item in poems
    ]
    console.result_table(("poem", "1", "2", "preferred"), rows)
    console.result("")
    console.result(f"A, {comparison.a}: {test.wins_a} wins")
    console.result(f"B, {comparison.b}: {test.wins_b} wins")
    console.result(f"no difference: {test.ties}, left out of the test")
    if test.share_a is not None:
        console.result(
            f"A won {test.share_a:.0%} of {test.decided} decided pairs "
            f"(95 % interval {low:.0%} to {high:.0%}; sign test: p = {test.p_value:.3g})"
        )
