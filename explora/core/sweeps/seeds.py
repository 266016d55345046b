"""Dev scores over seeds: the result of settings, independent of one seed. It does not load torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class OverSeeds:
    """The dev scores of cells that differ only in their seed. `settings` are their other varied settings."""

    name: str
    settings: Mapping[str, str]
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean of the dev scores over the seeds."""
        return sum(self.scores) / len(self.scores)


def over_seeds(scores: Iterable[tuple[str, Mapping[str, str], float]]) -> list[OverSeeds]:
    """Group scores by all settings except the seed.

    The scores come with the names and varied settings of their cells. Returns an empty list if all cells have
    the same seed.
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
