"""Votes on pairs: a JSON lines file that grows by a line with every vote, and what the votes show.

A line is `{"pair": KEY, "choice": "1"}`. The choice is 1 for the first text, 2 for the second, = for a tie. A
line tells nothing about the writers. The last vote on a pair counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from explora.core.files import append_line
from explora.core.judging.pairs import Pair
from explora.core.judging.sign_test import SignTest
from explora.errors import DataError

FIRST, SECOND, TIE = "1", "2", "="
CHOICES = (FIRST, SECOND, TIE)


def add_vote(file: Path, pair: Pair, choice: str) -> None:
    """Append a vote to a file; its folder is created."""
    append_line(file, json.dumps({"pair": pair.key, "choice": choice}))


def read_votes(file: Path) -> dict[str, str]:
    """Return the choices by the key of their pair. Raises DataError with the line of what is no vote."""
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
            "this line is no vote", 'a vote is {"pair": "...", "choice": "1"}', file=str(file), line=number
        )
    return key, choice


def winner(pair: Pair, choice: str) -> str:
    """Return who won a pair: "a", "b" or "tie"."""
    if choice == TIE:
        return "tie"
    return "a" if (choice == FIRST) == pair.a_first else "b"


def count_votes(pairs: Sequence[Pair], votes: Mapping[str, str]) -> SignTest:
    """Count the votes on these pairs; votes on other pairs are left out."""
    winners = [winner(pair, votes[pair.key]) for pair in pairs if pair.key in votes]
    return SignTest(wins_a=winners.count("a"), wins_b=winners.count("b"), ties=winners.count("tie"))
