"""Dev scores over seeds: what settings give apart from the luck of one seed. Light."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class OverSeeds:
    """The dev scores of cells that differ in their seed alone. `settings` are the others that vary."""

    name: str
    settings: Mapping[str, str]
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean score."""
        return sum(self.scores) / len(self.scores)


def over_seeds(scores: Iterable[tuple[str, Mapping[str, str], float]]) -> list[OverSeeds]:
    """Group scores, given with the names and varied settings of their cells, by all settings but the seed.

    Returns an empty list if the cells have one seed.
    """
    groups: dict[str, list[float]] = {}
    settings: dict[str, Mapping[str, str]] = {}
    for name, varied, score in scores:
        if "seed" not in varied:
            return []
        without = name.removesuffix(f"-s{varied['seed']}")
        settings[without] = {key: value for key, value in varied.items() if key != "seed"}
        groups.setdefault(without, []).append(score)
    return [
        OverSeeds(name=name, settings=settings[name], scores=tuple(found)) for name, found in groups.items()
    ]
