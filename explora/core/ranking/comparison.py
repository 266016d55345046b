"""Compare two runs on the same rows: the paired difference of each metric, and the rows won by each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from explora.core.ranking.scoring import Entry
from explora.core.tasks.metrics import Score
from explora.core.tasks.paired import Estimate, compare


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Differences of the first run minus the second, by metric, and won and lost rows by the ranking metric.

    wins, losses: numbers of rows on which the first run is better, and worse.
    """

    differences: Mapping[str, Estimate]
    wins: int
    losses: int


def compare_entries(first: Entry, second: Entry) -> Comparison:
    """Compare two runs that were scored on the same rows."""
    mine, other = first.evaluation.statistics, second.evaluation.statistics
    differences = {name: compare([score], [other[name]]) for name, score in mine.items() if name in other}
    gains = [
        (one > two) - (one < two)
        for one, two in zip(row_values(first.score), row_values(second.score), strict=True)
    ]
    better = 1 if first.score.higher_is_better else -1
    return Comparison(differences=differences, wins=gains.count(better), losses=gains.count(-better))


def row_values(score: Score) -> list[float]:
    """Return the value of each row in a metric that is a ratio: right or wrong, nats per token."""
    hits, sizes = score.by_example[:, 0], score.by_example[:, 1]
    return [float(hit / size) if size else 0.0 for hit, size in zip(hits, sizes, strict=True)]
