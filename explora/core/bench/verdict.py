"""What the rows say about this machine, in words. Ranges that overlap are "not distinguishable"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from explora.core.bench.cells import EXPLORA
from explora.core.bench.rows import Row

BUSY = 0.2  # of a processor: what a system does anyway
PAYS_OFF = {
    (True, True): "LoRA pays off here, in time and in memory",
    (True, False): "LoRA pays off here in time, not in memory",
    (False, True): "LoRA pays off here in memory, not in time",
    (False, False): "LoRA does not pay off here",
}


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


def speed(a: Row, b: Row) -> Ratio:
    """How many times as fast `a` is as `b`, in tokens a second."""
    assert a.spread and b.spread and a.tokens_per_second and b.tokens_per_second
    return _ratio(
        a.tokens_per_second, a.spread.tokens_per_second, b.tokens_per_second, b.spread.tokens_per_second
    )


def memory(a: Row, b: Row) -> Ratio:
    """How many times the peak memory of `b` is needed by `a`."""
    assert a.spread and b.spread and a.peak_memory_bytes and b.peak_memory_bytes
    return _ratio(
        a.peak_memory_bytes, a.spread.peak_memory_bytes, b.peak_memory_bytes, b.spread.peak_memory_bytes
    )


def _ratio(a: float, a_range: Sequence[float], b: float, b_range: Sequence[float]) -> Ratio:
    return Ratio(median=a / b, low=a_range[0] / b_range[1], high=a_range[1] / b_range[0])


def verdict(rows: Sequence[Row], machine: Mapping[str, Any]) -> list[str]:
    """Return a few sentences: LoRA of the middle rank against everything else that was measured.

    `machine` is measure's description, with `busy_elsewhere`: the processors that others kept busy.
    """
    measured = [row for row in rows if row.spread is not None]
    own = [row for row in measured if row.stack == EXPLORA]
    adapters = sorted((row for row in own if row.method == "lora"), key=lambda row: row.rank or 0)
    if not adapters:
        return ["Nothing to say about LoRA: it was not measured.", *_doubts(measured[0], machine)]
    lora = adapters[len(adapters) // 2]
    others = [row for row in measured if row is not lora and (row.method != "lora" or row.stack != EXPLORA)]
    sentences = [_headline(lora, own, machine)]
    sentences += [f"{lora.name} against {_called(row)}: {_against(lora, row)}." for row in others]
    if len(adapters) > 1:
        sentences.append(_ranks(adapters))
    return [*sentences, *_doubts(lora, machine)]


def _headline(lora: Row, own: Sequence[Row], machine: Mapping[str, Any]) -> str:
    where = f"on {machine['cores']} cores, {'fp32' if lora.amp == 'off' else lora.amp}"
    full = next((row for row in own if row.method == "full"), None)
    if full is None:
        return f"Measured {where}; full fine-tuning was not, so there is no verdict on LoRA."
    pays = PAYS_OFF[speed(lora, full).low > 1, memory(lora, full).high < 1]
    return f"{pays} ({where}, {lora.task}, batch {lora.batch_size})."


def _called(row: Row) -> str:
    if row.stack != EXPLORA:
        return f"the same with {row.stack}, from the same loss ({row.first_loss:.4f})"
    return "full fine-tuning" if row.method == "full" else row.name


def _against(a: Row, b: Row) -> str:
    fast, large = speed(a, b), memory(a, b)
    in_time = f"{fast} times as fast" if fast.is_distinguishable else "speed not distinguishable"
    in_memory = f"{large} times the memory" if large.is_distinguishable else "memory not distinguishable"
    return f"{in_time}, {in_memory}"


def _ranks(adapters: Sequence[Row]) -> str:
    """Say whether the rank makes a difference: the smallest against the largest."""
    small, large = adapters[0], adapters[-1]
    return f"Rank {small.rank} against {large.rank}: {_against(small, large)}."


def _doubts(row: Row, machine: Mapping[str, Any]) -> list[str]:
    """Say what makes the figures worth less."""
    doubts = []
    if row.repeats == 1:
        doubts.append("Measured once, so nothing is known of the spread.")
    busy, processors = machine["busy_elsewhere"], machine["processors"]
    if busy + (row.threads or 1) > processors + BUSY:
        doubts.append(
            f"Other programs kept {busy:.1f} of {processors} processors busy meanwhile: "
            "measure again on a quiet machine."
        )
    return doubts
