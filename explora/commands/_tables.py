"""The tables of `explora bench`, for the terminal and for its report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields

from explora import console
from explora.core.bench.lessons import Point
from explora.core.bench.measurements import varying
from explora.core.bench.report import ReportTable
from explora.core.bench.rows import BenchRow, MeasuredMemory

SPEED = ("trained", "share", "tokens/s", "range", "rows/s", "fwd/bwd/opt %", "memory", "file", "of peak")


def tables_of(rows: Sequence[BenchRow]) -> list[ReportTable]:
    """Return speed, memory by part, and, where it was measured, what was learned."""
    names = varying([row.setting for row in rows])

    def table(title: str, header: Sequence[str], cells: Callable[[BenchRow], tuple[str, ...]]) -> ReportTable:
        lines = [(row.name, *(row.setting.words()[name] for name in names), *cells(row)) for row in rows]
        return ReportTable(title=title, header=("method", *names, *header), lines=tuple(lines))

    parts = [part.name for part in fields(MeasuredMemory)]
    parts.sort(key=lambda name: name == "rest")  # what is left comes last
    found = [
        table("Speed", SPEED, _speed),
        table("Memory at its peak", ("peak", *parts), lambda row: _memory(row, parts)),
    ]
    learned = next((row.quality for row in rows if row.quality), None)
    if learned is None:
        return found
    header = (f"{learned.metric} after equal steps", "steps", "after equal time", "seconds", "steps")
    return [*found, table("What is learned", header, _quality)]


def _speed(row: BenchRow) -> tuple[str, ...]:
    if row.spread is None:
        return ("-",) * len(SPEED)
    assert row.seconds and row.trainable and row.share and row.checkpoint_bytes
    assert row.tokens_per_second and row.examples_per_second and row.peak_memory_bytes and row.matrix_share
    low, high = row.spread.tokens_per_second
    parts = (row.seconds.forward, row.seconds.backward, row.seconds.optimizer)
    step = sum(parts) + row.seconds.other
    return (
        f"{row.trainable:,}",
        f"{100 * row.share:.3g} %",
        f"{row.tokens_per_second:,.0f}",
        f"{low:,.0f}-{high:,.0f}",
        f"{row.examples_per_second:,.1f}",
        "/".join(f"{100 * part / step:.0f}" for part in parts),
        console.size(row.peak_memory_bytes),
        console.size(row.checkpoint_bytes),
        f"{100 * row.matrix_share:.0f} %",
    )


def _memory(row: BenchRow, parts: Sequence[str]) -> tuple[str, ...]:
    """In MB, so that a column can be read downward."""
    if row.memory is None or row.peak_memory_bytes is None:
        return ("-",) * (1 + len(parts))
    sizes = [row.peak_memory_bytes, *(getattr(row.memory, part) for part in parts)]
    return tuple(f"{size / 1e6:,.1f}" for size in sizes)


def _quality(row: BenchRow) -> tuple[str, ...]:
    if row.quality is None:
        return ("-",) * 5
    steps, seconds = row.quality.equal_steps, row.quality.equal_time
    return (
        _score(steps),
        f"{steps.steps:,}",
        _score(seconds),
        f"{seconds.seconds:.1f}",
        f"{seconds.steps:,}",
    )


def _score(point: Point) -> str:
    return f"{point.score:.4g} [{point.low:.4g}, {point.high:.4g}]"
