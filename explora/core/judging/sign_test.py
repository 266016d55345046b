"""The sign test: did one of two writers win more often than chance explains?"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb


@dataclass(frozen=True, kw_only=True)
class SignTest:
    """Wins of A, wins of B and ties over the judged pairs. The test ignores ties."""

    wins_a: int
    wins_b: int
    ties: int

    @property
    def decided(self) -> int:
        """The number of pairs with a winner."""
        return self.wins_a + self.wins_b

    @property
    def share_a(self) -> float | None:
        """The share of the decided pairs that A won; None if no pair was decided."""
        return self.wins_a / self.decided if self.decided else None

    @property
    def p_value(self) -> float:
        """The exact two-sided p-value: the probability that a fair coin is at least as uneven."""
        fewer = min(self.wins_a, self.wins_b)
        return min(1.0, 2 * _at_most(fewer, self.decided, 0.5))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the exact interval of A's share (Clopper and Pearson 1934)."""
        tail, wins, decided = (1 - level) / 2, self.wins_a, self.decided
        low = _share_where(1 - tail, wins - 1, decided) if wins else 0.0
        high = _share_where(tail, wins, decided) if wins < decided else 1.0
        return low, high


def _at_most(wins: int, decided: int, share: float) -> float:
    """Return the probability of at most `wins` of `decided`, each won with probability `share`."""
    return sum(comb(decided, n) * share**n * (1 - share) ** (decided - n) for n in range(wins + 1))


def _share_where(probability: float, wins: int, decided: int) -> float:
    """Return the share at which at most `wins` have this probability, which falls as the share rises."""
    low, high = 0.0, 1.0
    for _ in range(60):  # bisection to the last bit
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(wins, decided, middle) > probability else (low, middle)
    return low
