"""Convert measurements to rows: medians over the repeats, with the smallest and the largest values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from statistics import median
from typing import Any

from explora.core.bench.lessons import Learned
from explora.core.bench.measurements import BenchSetting, Contender, Measurement, MemoryParts
from explora.core.config.run_config import settings_of

MinMax = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A contender, its measurements, the reason of a failure, and another stack's reference loss."""

    contender: Contender
    found: tuple[Measurement, ...]
    error: str | None
    reference_loss: float | None = None
    learned: Learned | None = None


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """Time of a step by phase; `other` is making the batch and the time between the phases."""

    forward: float
    backward: float
    optimizer: float
    other: float


@dataclass(frozen=True, kw_only=True)
class MeasuredMemory(MemoryParts):
    """The peak by part; `rest` is not explained by the parts: memory of the allocator and of kernels."""

    rest: int


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The smallest and the largest values of the repeats."""

    tokens_per_second: MinMax
    examples_per_second: MinMax
    peak_memory_bytes: MinMax


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """One line of the bench: a contender and its figures, which are None if it failed.

    Speeds, seconds per step and memory are medians of the repeats. `matrix_peak` is the machine's matrix peak
    in that dtype in FLOP/s, the best of all cells; `matrix_share` is the share of it that the needed products
    reach. `first_loss` is the loss of the first batch before any update. For another stack, `reference_loss`
    is explora's loss with equal settings in fp32.
    """

    name: str
    stack: str
    task: str
    model: str
    method: str
    rank: int | None
    batch_size: int
    length: int | None
    amp: str
    grad_checkpoint: bool
    threads: int | None
    seed: int
    repeats: int
    steps: int | None = None
    trainable: int | None = None
    total: int | None = None
    share: float | None = None
    checkpoint_bytes: int | None = None
    tokens_per_second: float | None = None
    examples_per_second: float | None = None
    seconds: Seconds | None = None
    peak_memory_bytes: int | None = None
    baseline_memory_bytes: int | None = None
    memory: MeasuredMemory | None = None
    matrix_peak: float | None = None
    matrix_share: float | None = None
    spread: Spread | None = None
    first_loss: float | None = None
    reference_loss: float | None = None
    quality: Learned | None = None
    error: str | None = None

    @property
    def setting(self) -> BenchSetting:
        """The setting that it shares with the rows it is compared with."""
        return BenchSetting(
            batch_size=self.batch_size,
            length=self.length,
            amp=self.amp,
            grad_checkpoint=self.grad_checkpoint,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain JSON data."""
        plain = asdict(replace(self, quality=None))  # the statistics of its rows are not copied
        return plain | {"quality": self.quality.summary() if self.quality else None}


def summarise(outcomes: Sequence[Outcome], model: str) -> list[BenchRow]:
    """Return a row for each contender; `model` is the name of the base in output."""
    peaks: dict[str, float] = {}
    for outcome in outcomes:
        amp = outcome.contender.run.runtime.amp
        peaks[amp] = max([peaks.get(amp, 0.0), *(each.matrix_peak for each in outcome.found)])
    return [
        BenchRow(
            **_identity(outcome, model),
            **_figures(outcome, peaks[outcome.contender.run.runtime.amp]),
            reference_loss=outcome.reference_loss,
            quality=outcome.learned,
            error=outcome.error,
        )
        for outcome in outcomes
    ]


def _identity(outcome: Outcome, model: str) -> dict[str, Any]:
    contender, run = outcome.contender, outcome.contender.run
    return {
        "name": contender.name,
        "stack": contender.stack,
        "task": run.task,
        "model": model,
        "method": run.method.name,
        "rank": settings_of(run).get("rank"),
        **asdict(contender.setting),
        "threads": run.runtime.threads,
        "seed": run.training.seed,
        "repeats": len(outcome.found),
    }


def _figures(outcome: Outcome, matrix_peak: float) -> dict[str, Any]:
    found = outcome.found
    if not found or outcome.error:
        return {}
    first = found[0]
    tokens = [each.tokens / each.seconds for each in found]
    examples = [each.examples / each.seconds for each in found]
    memory = [each.peak_memory_bytes for each in found]
    return {
        "steps": first.steps,
        "trainable": first.trainable,
        "total": first.total,
        "share": first.trainable / first.total,
        "checkpoint_bytes": first.checkpoint_bytes,
        "tokens_per_second": round(median(tokens), 2),
        "examples_per_second": round(median(examples), 3),
        "seconds": _seconds(found),
        "peak_memory_bytes": round(median(memory)),
        "baseline_memory_bytes": round(median(each.baseline_memory_bytes for each in found)),
        "memory": _memory(found, round(median(memory))),
        "matrix_peak": matrix_peak,
        "matrix_share": round(median(each.flop / each.seconds for each in found) / matrix_peak, 4),
        "spread": Spread(
            tokens_per_second=_range(tokens),
            examples_per_second=_range(examples),
            peak_memory_bytes=_range(memory),
        ),
        "first_loss": first.first_loss,
    }


def _memory(found: Sequence[Measurement], peak: int) -> MeasuredMemory:
    """Return medians of the parts; with the rest they add up to the median of the peaks."""
    parts = {
        field.name: round(median(getattr(each.parts, field.name) for each in found))
        for field in fields(MemoryParts)
    }
    return MeasuredMemory(**parts, rest=peak - sum(parts.values()))


def _seconds(found: Sequence[Measurement]) -> Seconds:
    """Return the medians of the seconds per step."""

    def a_step(values: list[float]) -> float:
        return round(median(value / each.steps for value, each in zip(values, found, strict=True)), 6)

    phases = [each.forward + each.backward + each.optimizer for each in found]
    return Seconds(
        forward=a_step([each.forward for each in found]),
        backward=a_step([each.backward for each in found]),
        optimizer=a_step([each.optimizer for each in found]),
        other=a_step([each.seconds - known for each, known in zip(found, phases, strict=True)]),
    )


def _range(values: Sequence[float]) -> MinMax:
    return round(min(values), 3), round(max(values), 3)
