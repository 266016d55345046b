"""Ask for votes in the terminal: both texts side by side, one key per vote, each vote saved at once."""

from __future__ import annotations

import shutil
import signal
import sys
import textwrap
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from explora import console
from explora.errors import Interrupted
from explora.streams import clean

if TYPE_CHECKING:
    from explora.core.judging.pairs import Pair

QUIT = "q"
NARROW = 100  # columns of a terminal below which the two texts are stacked
GAP = 3


def collect_votes(pairs: Sequence[Pair], file: Path) -> bool:
    """Ask for the votes that a file lacks; return whether all votes are there now."""
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
    console.show(
        "Which text is better? 1: the first, 2: the second, =: no difference, q: stop and continue later"
    )
    while (key := _read_key()) not in (*CHOICES, QUIT):
        console.show(f"{key!r} is not one of 1, 2, =, q")
    return key


def _read_key() -> str:
    """Return one key of a terminal, or the first letter of a line of other input; q at the end of input."""
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        return line.strip()[:1] if line else QUIT
    try:
        return typer.getchar()
    except EOFError:
        return QUIT
    except KeyboardInterrupt:  # a terminal in raw mode sends no signal
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
    """Wrap each line of verse; indent the rest of a wrapped line."""
    return [
        piece
        for line in clean(text).split("\n")
        for piece in textwrap.wrap(line, max(width, 20), subsequent_indent="    ") or [""]
    ]
