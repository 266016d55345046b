"""The tables of `explora bench`, for the terminal and for its report.

A column has one unit, named in its header. Columns are in order of importance, because a narrow terminal
shows only the first ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from explora.core.bench.comparisons import Comparison, Difference, Ratio, settings_of_rows
from explora.core.bench.lessons import SHARES, Learned, Point
from explora.core.bench.measurements import BenchSetting, varying
from explora.core.bench.rows import BenchRow, MeasuredMemory
from explora.core.reports.document import Table
from explora.core.reports.figures import best_lines

if TYPE_CHECKING:
    from explora.core.bench.run import Result

SPEED = (
    *("tokens/s", "range", "peak MB", "trained", "share %", "file MB", "rows/s"),
    *("forward %", "backward %", "optimizer %", "of peak %"),
)
TIMES = [f"{share:.0%} of the time" for share in reversed(SHARES)]


def tables_of(result: Result) -> list[Table]:
    """Return the tables of speed, memory by part, comparisons and, if they were measured, scores."""
    rows = result.rows
    names = varying([row.setting for row in rows])

    def table(title: str, header: Sequence[str], cells: Callable[[BenchRow], Sequence[str]]) -> Table:
        lines = [(row.name, *(row.setting.words()[name] for name in names), *cells(row)) for row in rows]
        return Table(title=title, header=("method", *names, *header), lines=tuple(lines))

    parts = [part.name for part in fields(MeasuredMemory)]
    parts.sort(key=lambda name: name == "rest")  # the unexplained rest comes last
    found = [
        replace(table("Speed", SPEED, _speed), best=_best_speeds(rows, len(names))),
        table("Memory at its peak, in MB", ("peak", *parts), lambda row: _memory(row, parts)),
    ]
    learned = next((row.quality for row in rows if row.quality), None)
    if learned is not None:
        header = (*TIMES, "seconds", "equal steps", "steps", "untrained")
        found.append(table(_learning_title(learned), header, lambda row: _quality(row, rows)))
    if result.comparisons:
        found.append(_comparisons(result.comparisons, names))
    return found


def _best_speeds(rows: Sequence[BenchRow], names: int) -> frozenset[tuple[int, int]]:
    """Return the cells with the highest speed and the lowest peak memory of each setting."""
    columns: dict[int, tuple[Sequence[float | None], bool]] = {
        1 + names + SPEED.index("tokens/s"): ([row.tokens_per_second for row in rows], True),
        1 + names + SPEED.index("peak MB"): ([row.peak_memory_bytes for row in rows], False),
    }
    return frozenset(
        (line, column)
        for setting in settings_of_rows(rows)
        for column, (values, highest) in columns.items()
        for line in best_lines(_of_setting(rows, values, setting), highest=highest)
    )


def _of_setting(
    rows: Sequence[BenchRow], values: Sequence[float | None], setting: BenchSetting
) -> list[float | None]:
    """Return the values of the rows of a setting, with None for all other rows."""
    return [value if row.setting == setting else None for row, value in zip(rows, values, strict=True)]


def _speed(row: BenchRow) -> Sequence[str]:
    if row.spread is None:
        return ("-",) * len(SPEED)
    assert row.seconds and row.trainable and row.share and row.checkpoint_bytes
    assert row.tokens_per_second and row.examples_per_second and row.peak_memory_bytes and row.matrix_share
    low, high = row.spread.tokens_per_second
    phases = (row.seconds.forward, row.seconds.backward, row.seconds.optimizer)
    step = sum(phases) + row.seconds.other
    return (
        f"{row.tokens_per_second:,.0f}",
        f"{low:,.0f}-{high:,.0f}" if row.repeats > 1 else "",
        f"{row.peak_memory_bytes / 1e6:,.0f}",
        f"{row.trainable:,}",
        f"{100 * row.share:.3g}",
        f"{row.checkpoint_bytes / 1e6:,.2f}",
        f"{row.examples_per_second:,.1f}",
        *(f"{100 * phase / step:.0f}" for phase in phases),
        f"{100 * row.matrix_share:.0f}",
    )


def _memory(row: BenchRow, parts: Sequence[str]) -> Sequence[str]:
    if row.memory is None or row.peak_memory_bytes is None:
        return ("-",) * (1 + len(parts))
    sizes = [row.peak_memory_bytes, *(getattr(row.memory, part) for part in parts)]
    return tuple(f"{size / 1e6:,.1f}" for size in sizes)


def _learning_title(learned: Learned) -> str:
    better = "higher" if learned.higher_is_better else "lower"
    title = f"Scores: {learned.metric} ({better} is better; * the best of its setting)"
    if learned.trivial is None:
        return title
    return f'{title}; the trivial answer "{learned.trivial.answer}" has {learned.trivial.value:.4g}'


def _quality(row: BenchRow, rows: Sequence[BenchRow]) -> Sequence[str]:
    if row.quality is None:
        return ("-",) * (len(SHARES) + 4)
    learned = row.quality
    rivals = [other.quality for other in rows if other.setting == row.setting and other.quality]
    best = max if learned.higher_is_better else min
    in_time = [
        _score(learned.after(seconds), best(rival.after(seconds).score for rival in rivals))
        for seconds in reversed(learned.seconds)
    ]
    return (
        *in_time,
        f"{learned.seconds[-1]:.1f}",
        _score(learned.equal_steps, best(rival.equal_steps.score for rival in rivals)),
        f"{learned.steps:,}",
        f"{learned.untrained.score:.4g}",
    )


def _comparisons(comparisons: Sequence[Comparison], names: Sequence[str]) -> Table:
    subjects = list(dict.fromkeys(each.row.name for each in comparisons))
    metric = next((each.row.quality.metric for each in comparisons if each.row.quality), "")
    scored = [f"{metric}, {time}" for time in TIMES] if metric else []
    lines = [
        (
            each.other.name,
            *(each.row.setting.words()[name] for name in names),
            f"{each.speed.median:.2f}",
            _range(each.speed, each),
            f"{each.memory.median:.2f}",
            _range(each.memory, each),
            *([_difference(score) for score in reversed(each.scores)] or ["-"] * len(scored)),
        )
        for each in comparisons
    ]
    return Table(
        title=f"{' or '.join(subjects)}, compared with each: times the speed, times the peak memory",
        header=("compared with", *names, "speed", "range", "memory", "range", *scored),
        lines=tuple(lines),
    )


def _range(ratio: Ratio, comparison: Comparison) -> str:
    return f"{ratio.low:.2f}-{ratio.high:.2f}" if comparison.has_spread else ""


def _difference(score: Difference) -> str:
    found = score.estimate
    if found.low == found.high == 0:
        return "the same on every row"
    return f"{found.value:+.3g} [{found.low:+.3g}, {found.high:+.3g}]"


def _score(point: Point, best: float) -> str:
    interval = "unknown" if math.isnan(point.low) else f"{point.low:.4g}, {point.high:.4g}"
    return f"{point.score:.4g} [{interval}]{'*' if point.score == best else ''}"
