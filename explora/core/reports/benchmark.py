"""The report of `bench`: the verdict, speed, memory and scores by method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from explora.core.bench.comparisons import settings_of_rows
from explora.core.bench.lessons import Learned
from explora.core.bench.measurements import varying
from explora.core.bench.rows import BenchRow, MeasuredMemory
from explora.core.reports.bench_tables import tables_of
from explora.core.reports.document import (
    Bar,
    Bars,
    Curves,
    Interval,
    Intervals,
    Level,
    Listing,
    Plot,
    Remarks,
    Report,
    Section,
    Series,
)
from explora.core.reports.figures import machine_table

if TYPE_CHECKING:
    from explora.core.bench.run import Result


def bench_report(command: str, result: Result) -> Report:
    """Return the report of a bench with at least one measured row."""
    speed, memory, *others = tables_of(result)
    rows = [row for row in result.rows if row.spread is not None]
    comparisons = others[-1:] if result.comparisons else []
    learned = [table for table in others if table not in comparisons]
    sections = [
        Section(heading="Speed", blocks=(_speed(rows), speed)),
        Section(heading="Memory", blocks=(_memory(rows), memory)),
        Section(heading="Scores", blocks=(*_learning(rows), *learned)),
        Section(heading="Comparison", blocks=tuple(comparisons)),
        Section(heading="Notes", blocks=(Remarks(lines=(*legend(result), *_failures(result))),)),
        Section(
            heading="How it was made",
            blocks=(
                Listing(title=f"The command, on {result.rows[0].model}", text=command),
                machine_table(result.machine),
            ),
        ),
    ]
    return Report(
        title="Does LoRA pay off here?",
        lead=tuple(result.verdict),
        sections=tuple(section for section in sections if section.blocks),
    )


def legend(result: Result) -> list[str]:
    """Return explanations of the words in the tables."""
    first = next(row for row in result.rows if row.spread is not None)
    assert first.matrix_peak
    precision = "fp32" if first.amp == "off" else first.amp
    peak = f"{first.matrix_peak / 1e9:,.0f} GFLOP/s"
    repeats = f"medians of {first.repeats} repeats" if first.repeats > 1 else "measured once"
    return [
        f"{first.steps} timed steps per method, {repeats}; range: the slowest and the fastest repeat.",
        f"of peak: share of the {peak} that a large product in {precision} reaches.",
        "Memory by part, at the moment when the tensors are largest together. runtime: the process without "
        "these tensors, measured. activations: 0 if that moment is not in the backward pass, such as in "
        "the optimizer step. rest: the peak minus the parts; below 0 if the parts, counted in a later "
        "step, add up to more than the peak.",
    ]


def _failures(result: Result) -> list[str]:
    return [f"{row.name}: {row.error}" for row in result.rows if row.error]


def _labels(rows: Sequence[BenchRow]) -> list[str]:
    """Return the names of rows, each with the settings that differ between rows."""
    names = varying([row.setting for row in rows])
    return [", ".join(filter(None, [row.name, row.setting.described(names)])) for row in rows]


def _speed(rows: Sequence[BenchRow]) -> Bars:
    bars = [
        Bar(
            label=label,
            parts={"speed": row.tokens_per_second or 0.0},
            spread=row.spread.tokens_per_second if row.spread and row.repeats > 1 else None,
        )
        for row, label in zip(rows, _labels(rows), strict=True)
    ]
    return Bars(title="Speed, with the range of the repeats", x="tokens/s", bars=tuple(bars))


def _memory(rows: Sequence[BenchRow]) -> Bars:
    bars = [
        Bar(label=label, parts=_parts_up_to_the_peak(row), mark=(row.peak_memory_bytes or 0) / 1e6)
        for row, label in zip(rows, _labels(rows), strict=True)
    ]
    return Bars(
        title="Peak memory by part; parts that add up to more than the measured peak are cut off there",
        x="MB",
        bars=tuple(bars),
        mark="measured peak",
    )


def _parts_up_to_the_peak(row: BenchRow) -> dict[str, float]:
    """Return the parts in MB, in order; the last ones are reduced by a negative rest."""
    found, left = {}, float(row.peak_memory_bytes or 0)
    for part in sorted((item.name for item in fields(MeasuredMemory)), key=lambda name: name == "rest"):
        size = min(max(0.0, getattr(row.memory, part)), left)
        found[part], left = size / 1e6, left - size
    return found


def _learning(rows: Sequence[BenchRow]) -> list[Plot]:
    """Return, for each setting, the scores over steps, over seconds, and after equal time."""
    found: list[Plot] = []
    learners = [row for row in rows if row.quality]
    names = varying([row.setting for row in learners]) if learners else []
    for setting in settings_of_rows(learners):
        scores = {row.name: row.quality for row in learners if row.setting == setting and row.quality}
        where = f" ({setting.described(names)})" if names else ""
        found += [
            _score_curves(scores, "steps", f"Score over steps{where}"),
            _score_curves(scores, "seconds", f"Score over seconds of training{where}"),
            _after_equal_time(scores, f"Score after equal time, with 95 % intervals{where}"),
        ]
    return found


def _score_curves(scores: dict[str, Learned], axis: str, title: str) -> Curves:
    first = next(iter(scores.values()))
    series = [
        Series(
            label=name,
            xs=tuple(getattr(point, axis) for point in learned.curve),
            ys=tuple(point.score for point in learned.curve),
        )
        for name, learned in scores.items()
    ]
    return Curves(title=title, x=axis, y=first.metric, series=tuple(series), levels=_levels(first))


def _after_equal_time(scores: dict[str, Learned], title: str) -> Intervals:
    first = next(iter(scores.values()))
    items = [
        Interval(label=name, value=point.score, low=point.low, high=point.high)
        for name, point in ((name, learned.equal_time) for name, learned in scores.items())
    ]
    return Intervals(title=title, x=first.metric, items=tuple(items), levels=_levels(first))


def _levels(learned: Learned) -> tuple[Level, ...]:
    """Return the reference values of a score; each method starts from the same base."""
    untrained = Level(label="untrained base", value=learned.untrained.score)
    if learned.trivial is None:
        return (untrained,)
    return Level(label=f"trivial ({learned.trivial.answer})", value=learned.trivial.value), untrained
