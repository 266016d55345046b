"""Rank scored runs: one line for all seeds of the same settings, and letters for lines that do not differ."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations, pairwise
from typing import Any

from explora.core.ranking.letters import share_letters
from explora.core.ranking.scoring import Entry
from explora.core.tasks.paired import Estimate, PairedScores, holm

SIGNIFICANT = 0.05


@dataclass(frozen=True, kw_only=True)
class Line:
    """One run, or the means of several that differ only in their random seed.

    rank: 1 is the best. interval: 95 %. letters: shared with lines that do not differ significantly.
    settings: those that differ between the lines. seed_deviation: standard deviation of the score between the
    seeds, None for one run.
    """

    rank: int
    entries: Sequence[Entry]
    settings: dict[str, str]
    score: float
    interval: tuple[float, float]
    letters: str

    @property
    def name(self) -> str:
        """The name of the run; for several, the name of the first and the number of others."""
        more = len(self.entries) - 1
        return self.entries[0].candidate.name + (f" +{more}" if more else "")

    @property
    def seeds(self) -> list[int]:
        """The random seeds of the runs that have a record."""
        runs = [entry.candidate.run for entry in self.entries]
        return [run.training.seed for run in runs if run is not None]

    @property
    def seed_deviation(self) -> float | None:
        """Standard deviation of the score between seeds; None for one run."""
        if len(self.entries) == 1:
            return None
        return statistics.stdev(entry.score.value for entry in self.entries)

    def mean_score(self, metric: str) -> float:
        """Return the mean of a metric over the runs."""
        return statistics.fmean(
            entry.evaluation.scores[metric] for entry in self.entries if entry.evaluation.scores
        )

    def mean_result(self, fact: str) -> float | None:
        """Return the mean of a recorded value, such as `seconds`; None if a run has no record of it."""
        values = [entry.candidate.result.get(fact) for entry in self.entries]
        known = [float(value) for value in values if value is not None]
        return statistics.fmean(known) if len(known) == len(values) else None

    @property
    def file_bytes(self) -> float | None:
        """Mean size of the files of trained weights; None for a base that is given by name."""
        sizes = [entry.candidate.file_bytes for entry in self.entries]
        known = [size for size in sizes if size is not None]
        return statistics.fmean(known) if len(known) == len(sizes) else None

    @property
    def forgetting(self) -> float | None:
        """Mean increase of the general text's nats per token; None if it was not measured."""
        found = [entry.forgetting for entry in self.entries]
        known = [each.increase for each in found if each is not None]
        return statistics.fmean(known) if len(known) == len(found) else None


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The paired difference of two lines, given by index; `adjusted` is the p-value after Holm's method."""

    first: int
    second: int
    difference: Estimate
    adjusted: float


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The lines from the best to the worst, and the comparison of every pair."""

    metric: str
    higher_is_better: bool
    lines: Sequence[Line]
    pairs: Sequence[Pair]

    @property
    def first_entry(self) -> Entry:
        """One of the entries, for properties that all share: the rows and the trivial answers."""
        return self.lines[0].entries[0]

    @property
    def seeds_legend(self) -> str:
        """Explanation of "+1" after a name; empty if each line is one run."""
        if all(len(line.entries) == 1 for line in self.lines):
            return ""
        return '"+1" after a run: one more run that differs only in its random seed. Scores are means.'

    def count_better(self, score: float) -> int:
        """Return the number of lines that are better than a score."""
        sign = 1 if self.higher_is_better else -1
        return sum(sign * line.score > sign * score for line in self.lines)


def rank(entries: Sequence[Entry]) -> Ranking:
    """Rank entries that were scored on the same rows; at least one entry is needed.

    Every two lines are compared by the paired bootstrap over rows and seeds (`paired.py`). The p-values are
    adjusted for their number (Holm 1979).
    """
    metric, higher = entries[0].metric, entries[0].score.higher_is_better
    groups = _by_settings(entries)
    groups.sort(key=_mean, reverse=higher)
    scores = PairedScores([entry.score for group in groups for entry in group])
    places = _places(groups)
    pairs = _compare(scores, places)
    different = [(pair.first, pair.second) for pair in pairs if pair.adjusted < SIGNIFICANT]
    letters = share_letters(len(groups), different)
    settings = _differing([group[0].candidate.settings() for group in groups])
    lines = [
        Line(
            rank=number + 1,
            entries=group,
            settings=settings[number],
            score=_mean(group),
            interval=_interval(group, scores, places[number]),
            letters=letters[number],
        )
        for number, group in enumerate(groups)
    ]
    return Ranking(metric=metric, higher_is_better=higher, lines=lines, pairs=pairs)


def _by_settings(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Return the entries in groups with equal recorded settings, apart from the random seed.

    A copy of a run is not another seed, so it has its own group.
    """
    groups: dict[object, list[Entry]] = {}
    copies: Counter[object] = Counter()
    for entry in entries:
        candidate = entry.candidate
        settings = (
            (candidate.method_label, *candidate.settings().items()) if candidate.run else candidate.name
        )
        seed = candidate.run.training.seed if candidate.run else None
        groups.setdefault((settings, copies[settings, seed]), []).append(entry)
        copies[settings, seed] += 1
    return list(groups.values())


def _places(groups: Sequence[Sequence[Entry]]) -> list[range]:
    """Return the indices of each group's entries among all entries."""
    ends = [*accumulate((len(group) for group in groups), initial=0)]
    return [range(start, end) for start, end in pairwise(ends)]


def _differing(settings: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Return, for each line, the settings whose values differ between the lines that have them."""
    names = {name for each in settings for name in each}
    differing = {name for name in names if len({each[name] for each in settings if name in each}) > 1}
    return [{name: value for name, value in each.items() if name in differing} for each in settings]


def _compare(scores: PairedScores, places: Sequence[Sequence[int]]) -> list[Pair]:
    numbers = list(combinations(range(len(places)), 2))
    found = [scores.difference(places[one], places[other]) for one, other in numbers]
    adjusted = holm([each.p for each in found])
    return [
        Pair(first=one, second=other, difference=difference, adjusted=p)
        for (one, other), difference, p in zip(numbers, found, adjusted, strict=True)
    ]


def _interval(group: Sequence[Entry], scores: PairedScores, places: Sequence[int]) -> tuple[float, float]:
    """Return the interval of one run as in `eval`, or the interval of the mean of several."""
    if len(group) == 1:
        return group[0].evaluation.intervals[group[0].metric]
    mean = scores.mean(places)
    return mean.low, mean.high


def _mean(group: Sequence[Entry]) -> float:
    return statistics.fmean(entry.score.value for entry in group)


def to_json(ranking: Ranking) -> dict[str, Any]:
    """Return the ranking as plain JSON data."""
    return {
        "metric": ranking.metric,
        "higher_is_better": ranking.higher_is_better,
        "ranking": [_line_to_json(line) for line in ranking.lines],
        "pairs": [
            {
                "first": ranking.lines[pair.first].rank,
                "second": ranking.lines[pair.second].rank,
                "difference": pair.difference.value,
                "interval": [pair.difference.low, pair.difference.high],
                "p": pair.difference.p,
                "p_adjusted": pair.adjusted,
            }
            for pair in ranking.pairs
        ],
    }


def _line_to_json(line: Line) -> dict[str, Any]:
    return {
        "rank": line.rank,
        "runs": [entry.candidate.name for entry in line.entries],
        "seeds": line.seeds,
        "method": line.entries[0].candidate.method_label,
        "settings": line.settings,
        "score": line.score,
        "interval": list(line.interval),
        "seed_deviation": line.seed_deviation,
        "letters": line.letters,
        "scores": {name: line.mean_score(name) for name in line.entries[0].evaluation.scores or {}},
        "seconds": line.mean_result("seconds"),
        "peak_memory_bytes": line.mean_result("peak_memory_bytes"),
        "trainable": line.mean_result("trainable"),
        "file_bytes": line.file_bytes,
        "forgetting": line.forgetting,
    }
