"""Votes on pairs, in a JSON lines file to which every vote adds a line.

A line is `{"pair": KEY, "choice": "1"}`. The choice is 1 for the first text, 2 for the second, = for a tie. A
line has no information about the writers. The last vote on a pair counts.
"""

from __future__ import annotations

import json
from pathlib import Path

from explora.core.files import append_line
from explora.core.judging.pairs import Pair
from explora.errors import DataError

FIRST, SECOND, TIE = "1", "2", "="
CHOICES = (FIRST, SECOND, TIE)


def add_vote(file: Path, pair: Pair, choice: str) -> None:
    """Append a vote to a file in an existing folder."""
    append_line(file, json.dumps({"pair": pair.key, "choice": choice}))


def read_votes(file: Path) -> dict[str, str]:
    """Return the choices by the key of their pair. Raises DataError with the line of an invalid vote."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", "name a file of votes", file=str(file)) from None
    votes = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            key, choice = _parse(line, file, number)
            votes[key] = choice
    return votes


def _parse(line: str, file: Path, number: int) -> tuple[str, str]:
    try:
        vote = json.loads(line)
        key, choice = str(vote["pair"]), vote["choice"]
    except (ValueError, KeyError, TypeError):
        key, choice = "", None
    if choice not in CHOICES:
        raise DataError(
            "this line is not a vote", 'a vote is {"pair": "...", "choice": "1"}', file=str(file), line=number
        )
    return key, choice
