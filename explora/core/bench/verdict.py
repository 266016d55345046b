"""What the rows say about this machine, in words. Ranges that overlap are "not distinguishable".

Rows are compared with those of their own setting only: batch size, length, precision and checkpointing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from explora.core.bench.lessons import Learned, Point
from explora.core.bench.measurements import EXPLORA, varying
from explora.core.bench.rows import BenchRow
from explora.core.config.registry import DEFAULT_METHOD, method_class

BUSY = 0.2  # of a processor: what a system does anyway
PAYS_OFF = {
    (True, True): "LoRA pays off here, in time and in memory",
    (True, False): "LoRA pays off here in time, not in memory",
    (False, True): "LoRA pays off here in memory, not in time",
    (False, False): "LoRA does not pay off here",
}
WORTH = {
    (True, True): "It is worth it whenever what it learns is enough for you",
    (True, False): "It is worth it where time is short and what it learns is enough for you",
    (False, True): "It is worth it where memory is short",
    (False, False): "It is worth it only where small files count, such as many adapters of one base",
}
NOT_LEARNED = "what it learns was not measured (--quality does that)"


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """One row's figure over another's: of the medians, and between the ends of their ranges."""

    median: float
    low: float
    high: float

    @property
    def is_distinguishable(self) -> bool:
        """Whether the two ranges do not overlap."""
        return self.low > 1 or self.high < 1

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def speed(a: BenchRow, b: BenchRow) -> Ratio:
    """How many times as fast `a` is as `b`, in tokens a second."""
    assert a.spread and b.spread and a.tokens_per_second and b.tokens_per_second
    return _ratio(
        a.tokens_per_second, a.spread.tokens_per_second, b.tokens_per_second, b.spread.tokens_per_second
    )


def memory(a: BenchRow, b: BenchRow) -> Ratio:
    """How many times the peak memory of `b` is needed by `a`."""
    assert a.spread and b.spread and a.peak_memory_bytes and b.peak_memory_bytes
    return _ratio(
        a.peak_memory_bytes, a.spread.peak_memory_bytes, b.peak_memory_bytes, b.spread.peak_memory_bytes
    )


def _ratio(a: float, a_range: Sequence[float], b: float, b_range: Sequence[float]) -> Ratio:
    return Ratio(median=a / b, low=a_range[0] / b_range[1], high=a_range[1] / b_range[0])


def verdict(rows: Sequence[BenchRow], machine: Mapping[str, Any]) -> list[str]:
    """Return a few sentences for each setting, and what makes the figures worth less.

    `machine` is measure's description, with `busy_elsewhere`: the processors that others kept busy.
    """
    measured = [row for row in rows if row.spread is not None]
    settings = list(dict.fromkeys(row.setting for row in measured))
    names = varying(settings)
    sentences: list[str] = []
    for setting in settings:
        said = _of_setting([row for row in measured if row.setting == setting], machine)
        where = setting.described(names)
        sentences += [f"With {where}: {said[0]}", *said[1:]] if where else said
    return [*sentences, *_doubts(measured[0], machine)]


def _of_setting(rows: Sequence[BenchRow], machine: Mapping[str, Any]) -> list[str]:
    """LoRA of the middle rank against everything else of its setting."""
    own = [row for row in rows if row.stack == EXPLORA]
    adapters = sorted((row for row in own if row.method == DEFAULT_METHOD), key=lambda row: row.rank or 0)
    if not adapters:
        return ["Nothing to say about LoRA: it was not measured."]
    lora = adapters[len(adapters) // 2]
    full = next((row for row in own if method_class(row.method).trains_base), None)
    others = [
        row for row in rows if row is not lora and (row.method != DEFAULT_METHOD or row.stack != EXPLORA)
    ]
    sentences = [_headline(lora, full, machine)]
    sentences += [f"{lora.name} against {_called(row)}: {_against(lora, row)}." for row in others]
    if len(adapters) > 1:
        small, large = adapters[0], adapters[-1]
        sentences.append(f"Rank {small.rank} against {large.rank}: {_against(small, large)}.")
    return [*sentences, *([_when(lora, full)] if full else [])]


def _headline(lora: BenchRow, full: BenchRow | None, machine: Mapping[str, Any]) -> str:
    where = f"on {machine['cores']} cores, {'fp32' if lora.amp == 'off' else lora.amp}"
    if full is None:
        return f"Measured {where}; full fine-tuning was not, so there is no verdict on LoRA."
    once = "By one measurement: " if lora.repeats == 1 else ""
    return f"{once}{PAYS_OFF[_gains(lora, full)]} ({where}, {lora.task}, batch {lora.batch_size})."


def _gains(lora: BenchRow, full: BenchRow) -> tuple[bool, bool]:
    """Whether it is distinguishably faster, and smaller."""
    return speed(lora, full).low > 1, memory(lora, full).high < 1


def _called(row: BenchRow) -> str:
    if row.stack != EXPLORA:
        return f"the same with {row.stack}, from the same loss ({row.first_loss:.4f})"
    return "full fine-tuning" if method_class(row.method).trains_base else row.name


def _against(a: BenchRow, b: BenchRow) -> str:
    fast, large = speed(a, b), memory(a, b)
    in_time = f"{fast} times as fast" if fast.is_distinguishable else "speed not distinguishable"
    in_memory = f"{large} times the memory" if large.is_distinguishable else "memory not distinguishable"
    return ", ".join([in_time, in_memory, _files(a, b), *_learning(a.quality, b.quality)])


def _files(a: BenchRow, b: BenchRow) -> str:
    """File sizes are exact: they need no interval."""
    assert a.checkpoint_bytes and b.checkpoint_bytes
    return f"a file of {_megabytes(a.checkpoint_bytes)} instead of {_megabytes(b.checkpoint_bytes)}"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB" if count >= 1e7 else f"{count / 1e6:.2g} MB"


def _learning(a: Learned | None, b: Learned | None) -> list[str]:
    if a is None or b is None:
        return []
    steps = _scores(a, a.equal_steps, b.equal_steps)
    seconds = _scores(a, a.equal_time, b.equal_time)
    return [
        f"{a.metric} after {a.equal_steps.steps} steps each {steps}",
        f"after {a.equal_time.seconds:.1f} s each {seconds}",
    ]


def _scores(learned: Learned, a: Point, b: Point) -> str:
    said = {1: "better", -1: "worse", 0: "not distinguishable"}[compared(learned, a, b)]
    return f"{_interval(a)} against {_interval(b)} ({said})"


def _interval(point: Point) -> str:
    return f"{point.score:.3f} [{point.low:.3f}, {point.high:.3f}]"


def compared(learned: Learned, a: Point, b: Point) -> int:
    """Return 1 where `a` scores better than `b`, -1 where worse, 0 where the intervals overlap."""
    if a.low <= b.high and b.low <= a.high:
        return 0
    return 1 if (a.score > b.score) == learned.higher_is_better else -1


def _when(lora: BenchRow, full: BenchRow) -> str:
    """Say when LoRA is worth it here."""
    worth = WORTH[_gains(lora, full)]
    if lora.quality is None or full.quality is None:
        return f"{worth}; {NOT_LEARNED}."
    in_time = compared(lora.quality, lora.quality.equal_time, full.quality.equal_time)
    learned = {
        1: "more than full fine-tuning",
        0: f"as much as full fine-tuning, as far as {lora.quality.examples:,} rows can tell",
        -1: "less than full fine-tuning",
    }
    return f"{worth}; in the same time it learns {learned[in_time]}."


def _doubts(row: BenchRow, machine: Mapping[str, Any]) -> list[str]:
    """Say what makes the figures worth less."""
    doubts = []
    if row.repeats == 1:
        doubts.append("Measured once, so nothing is known of the spread.")
    if row.quality is not None:
        doubts.append("Each method was trained once, with one seed; the intervals are over the dev rows.")
    busy, processors = machine["busy_elsewhere"], machine["processors"]
    if busy + (row.threads or 1) > processors + BUSY:
        doubts.append(
            f"Other programs kept {busy:.1f} of {processors} processors busy meanwhile: "
            "measure again on a quiet machine."
        )
    return doubts
