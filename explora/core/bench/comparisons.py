"""Comparison of contenders: ratios of their costs, and differences of their scores, row by row.

Rows are compared only within their own setting: batch size, length, precision and checkpointing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from explora.core.bench.lessons import Learned, Point
from explora.core.bench.measurements import EXPLORA, BenchSetting
from explora.core.bench.rows import BenchRow
from explora.core.config.registry import DEFAULT_METHOD, method_class
from explora.core.tasks.paired import Estimate, compare


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """The figure of one row divided by another's: ratio of the medians, and extremes of the ratio."""

    median: float
    low: float
    high: float

    @property
    def direction(self) -> int:
        """1 or -1 if one range is completely above or below the other, 0 if the ranges overlap."""
        return (self.low > 1) - (self.high < 1)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The score of one row minus that of another, after `seconds` of training for each; see `paired`."""

    seconds: float
    estimate: Estimate


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two rows of one setting: speed and peak memory of `row` divided by those of `other`.

    `scores` are differences after the shares of equal time, empty if one of them has no scores.
    """

    row: BenchRow
    other: BenchRow
    speed: Ratio
    memory: Ratio
    scores: tuple[Difference, ...]

    @property
    def has_spread(self) -> bool:
        """Whether both rows were measured more than once."""
        return min(self.row.repeats, self.other.repeats) > 1

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain JSON data; rows are given by name and setting."""
        return {
            "name": self.row.name,
            "other": self.other.name,
            **asdict(self.row.setting),
            "speed": asdict(self.speed),
            "memory": asdict(self.memory),
            "scores": [{"seconds": each.seconds, **asdict(each.estimate)} for each in self.scores],
        }


def compare_rows(rows: Sequence[BenchRow]) -> list[Comparison]:
    """Compare the subject of each setting with every other row that was measured."""
    measured = [row for row in rows if row.spread is not None]
    found: list[Comparison] = []
    for setting in settings_of_rows(measured):
        group = [row for row in measured if row.setting == setting]
        subject = subject_of(group)
        if subject is not None:
            found += [_compare(subject, row) for row in group if row is not subject]
    return found


def settings_of_rows(rows: Sequence[BenchRow]) -> list[BenchSetting]:
    """Return the distinct settings of rows."""
    return list(dict.fromkeys(row.setting for row in rows))


def subject_of(group: Sequence[BenchRow]) -> BenchRow | None:
    """Return the row that a verdict is about: LoRA of the middle rank, else the first except full."""
    own = [row for row in group if row.stack == EXPLORA]
    adapters = sorted((row for row in own if row.method == DEFAULT_METHOD), key=lambda row: row.rank or 0)
    if adapters:
        return adapters[len(adapters) // 2]
    return next((row for row in own if not is_full(row)), None)


def is_full(row: BenchRow) -> bool:
    """Return whether a row is explora's full fine-tuning."""
    return row.stack == EXPLORA and method_class(row.method).trains_base


def is_better(learned: Learned, estimate: Estimate) -> bool:
    """Return whether a difference is an improvement for every value in its 95 % interval."""
    return estimate.low > 0 if learned.higher_is_better else estimate.high < 0


def beats_no_learning(learned: Learned, point: Point) -> bool:
    """Return whether a score is better than the best trivial answer and than the score before training.

    Its whole interval must be better than the trivial score, and the paired difference from the untrained
    model must be an improvement.
    """
    if learned.trivial is not None:
        trivial = learned.trivial.value
        beats_trivial = point.low > trivial if learned.higher_is_better else point.high < trivial
        if not beats_trivial:
            return False
    return is_better(learned, compare([point.statistics], [learned.untrained.statistics]))


def _compare(row: BenchRow, other: BenchRow) -> Comparison:
    assert row.spread and row.tokens_per_second and row.peak_memory_bytes
    assert other.spread and other.tokens_per_second and other.peak_memory_bytes
    return Comparison(
        row=row,
        other=other,
        speed=_ratio(
            row.tokens_per_second,
            row.spread.tokens_per_second,
            other.tokens_per_second,
            other.spread.tokens_per_second,
        ),
        memory=_ratio(
            row.peak_memory_bytes,
            row.spread.peak_memory_bytes,
            other.peak_memory_bytes,
            other.spread.peak_memory_bytes,
        ),
        scores=_differences(row.quality, other.quality),
    )


def _ratio(a: float, a_range: Sequence[float], b: float, b_range: Sequence[float]) -> Ratio:
    return Ratio(median=a / b, low=a_range[0] / b_range[1], high=a_range[1] / b_range[0])


def _differences(one: Learned | None, other: Learned | None) -> tuple[Difference, ...]:
    if one is None or other is None:
        return ()
    return tuple(
        Difference(
            seconds=seconds,
            estimate=compare([one.after(seconds).statistics], [other.after(seconds).statistics]),
        )
        for seconds in one.seconds
    )
