"""Divide the cells of a sweep among machines and jobs, so that all end at about the same time.

Importing this module does not load torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from explora.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Part `number`, from 1, of `count` parts of a sweep."""

    number: int
    count: int

    def __str__(self) -> str:
        """Return the text form, as `parse_shard` reads it."""
        return f"{self.number}/{self.count}"


def parse_shard(text: str) -> Shard:
    """Parse `2/4`, the second of four shards. Raises UsageError."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"--shard {text} is not NUMBER/COUNT", "--shard 1/4 to --shard 4/4")
    return Shard(number=int(match[1]), count=int(match[2]))


def cells_of_shard(work: Sequence[float], shard: Shard) -> list[int]:
    """Return the indices of the cells that a shard trains, in order; `work` is that of each cell.

    The longest remaining cell goes to the shard with the least work (Graham 1969). No shard then has more
    than 4/3 of the best possible maximum. Every machine computes the same division.
    """
    totals = [0.0] * shard.count
    own = []
    for place in longest_first(work):
        lightest = totals.index(min(totals))
        totals[lightest] += work[place]
        if lightest == shard.number - 1:
            own.append(place)
    return sorted(own)


def longest_first(work: Sequence[float]) -> list[int]:
    """Return the indices of the cells from the longest to the shortest; equal cells keep their order."""
    return sorted(range(len(work)), key=lambda place: -work[place])
