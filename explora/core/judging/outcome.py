"""Result of the votes on a comparison: the winner of each poem, and the sign test over all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from explora.core.judging.comparison import Comparison
from explora.core.judging.pairs import Pair
from explora.core.judging.sign_test import SignTest
from explora.core.judging.votes import FIRST, TIE


@dataclass(frozen=True, kw_only=True)
class JudgedPoem:
    """A judged poem: its writers, "a" or "b", in the order shown, and who was `preferred`, or "tie"."""

    id: str
    first: str
    second: str
    preferred: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The names of the writers, the number of all pairs, and those that were judged."""

    a: str
    b: str
    pairs: int
    poems: Sequence[JudgedPoem]

    @property
    def test(self) -> SignTest:
        """The sign test over the judged poems."""
        preferred = [poem.preferred for poem in self.poems]
        return SignTest(wins_a=preferred.count("a"), wins_b=preferred.count("b"), ties=preferred.count("tie"))

    def to_json(self) -> dict[str, Any]:
        """Return the object of `eval --blind --json`."""
        test = self.test
        return {
            "a": self.a,
            "b": self.b,
            "pairs": self.pairs,
            "votes": len(self.poems),
            "wins_a": test.wins_a,
            "wins_b": test.wins_b,
            "ties": test.ties,
            "share_a": test.share_a,
            "interval": list(test.interval()),
            "p_value": test.p_value,
            "poems": [{"id": it.id, "first": it.first, "preferred": it.preferred} for it in self.poems],
        }


def outcome_of(comparison: Comparison, votes: Mapping[str, str]) -> Outcome:
    """Return the result of votes, given by the key of their pair; votes on other pairs are ignored."""
    judged = [_judged(pair, votes[pair.key]) for pair in comparison.pairs if pair.key in votes]
    return Outcome(a=comparison.a, b=comparison.b, pairs=len(comparison.pairs), poems=judged)


def _judged(pair: Pair, choice: str) -> JudgedPoem:
    first, second = ("a", "b") if pair.a_first else ("b", "a")
    preferred = "tie" if choice == TIE else first if choice == FIRST else second
    return JudgedPoem(id=pair.id, first=first, second=second, preferred=preferred)
