"""Letters for results that do not differ significantly: these results share a letter."""

from __future__ import annotations

from collections.abc import Iterable
from string import ascii_lowercase


def share_letters(count: int, different: Iterable[tuple[int, int]]) -> list[str]:
    """Return the letters of `count` results, sorted from the best; `different` are the pairs that differ.

    The compact letter display of Piepho (2004), "An algorithm for a letter-based representation of
    all-pairwise comparisons": insert a pair, then absorb groups that are parts of others.
    """
    groups = [frozenset(range(count))]
    for one, other in different:
        split = [
            part
            for group in groups
            for part in ((group - {one}, group - {other}) if {one, other} <= group else (group,))
        ]
        groups = [group for group in dict.fromkeys(split) if not any(group < larger for larger in split)]
    groups.sort(key=sorted)
    return [
        "".join(_letter(n) for n, group in enumerate(groups) if result in group) for result in range(count)
    ]


def _letter(number: int) -> str:
    """Return a, b, ..., z, then a2, b2, ..."""
    cycle, place = divmod(number, len(ascii_lowercase))
    return ascii_lowercase[place] + (str(cycle + 1) if cycle else "")
