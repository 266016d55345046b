"""What a cell is asked and what it answers. Light: the parent process needs no torch for either."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from explora.core.config.run_config import TrainRun

EXPLORA = "explora"
WARMUP_STEPS = 2  # the first has the longest batch, which settles the peak memory
FEWEST_STEPS = 2


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measurement of a run whose runtime is resolved.

    `length`: every row is filled to so many tokens, None leaves them as they are. `steps`: how many are
    timed after the warm-up, None for as many as fit into `seconds`, warm-up included.
    """

    run: TrainRun
    length: int | None
    steps: int | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            "run": self.run.to_json(),
            "length": self.length,
            "steps": self.steps,
            "seconds": self.seconds,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Cell:
        """The inverse of `to_json`."""
        return cls(**{**value, "run": TrainRun.from_json(value["run"])})


@dataclass(frozen=True, kw_only=True)
class MemoryParts:
    """What peak memory is for, in bytes.

    `runtime` is measured: what the process holds after its steps, less the tensors that outlive a step. The
    others are sums over the tensors, at the moment of the step with the longest batch when they are largest.
    """

    runtime: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    temporaries: int


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a cell found. Seconds, examples, real tokens and FLOP are sums over the timed steps.

    `flop` are those of the matrix products that the method needs for the real tokens; `matrix_peak` is what
    a large product reaches in the same process in the same dtype, FLOP/s. `first_loss` is that of the first
    batch before any update, per item; `rows` a digest of the token ids that were read.
    """

    steps: int
    examples: int
    tokens: int
    seconds: float
    forward: float
    backward: float
    optimizer: float
    flop: float
    matrix_peak: float
    peak_memory_bytes: int
    baseline_memory_bytes: int
    parts: MemoryParts
    trainable: int
    total: int
    checkpoint_bytes: int
    first_loss: float
    rows: str

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Measurement:
        """The inverse of `to_json`."""
        return cls(**{**value, "parts": MemoryParts(**value["parts"])})


@dataclass(frozen=True, kw_only=True)
class BenchSetting:
    """What contenders have in common that are compared with each other. `length`: see Cell."""

    batch_size: int
    length: int | None
    amp: str
    grad_checkpoint: bool

    def words(self) -> dict[str, str]:
        """Return how output says each of the four."""
        return {
            "batch": f"{self.batch_size}",
            "length": "as it is" if self.length is None else f"{self.length}",
            "precision": "fp32" if self.amp == "off" else self.amp,
            "checkpointing": "on" if self.grad_checkpoint else "off",
        }

    def described(self, names: Sequence[str]) -> str:
        """Return some of the words with their names: `batch 4, precision bf16`."""
        words = self.words()
        return ", ".join(f"{name} {words[name]}" for name in names)


@dataclass(frozen=True, kw_only=True)
class Contender:
    """What is compared: a run, the `length` of its rows (see Cell), its stack: ours or another's versions."""

    run: TrainRun
    length: int | None = None
    stack: str = EXPLORA

    @property
    def is_own(self) -> bool:
        """Whether it runs on explora itself."""
        return self.stack == EXPLORA

    @property
    def setting(self) -> BenchSetting:
        """What it shares with those it is compared with."""
        return BenchSetting(
            batch_size=self.run.training.batch_size,
            length=self.length,
            amp=self.run.runtime.amp,
            grad_checkpoint=self.run.runtime.grad_checkpoint,
        )

    @property
    def name(self) -> str:
        """How output calls it."""
        method = self.run.method
        if self.is_own:
            return method.label
        return f"{method.label} ({'peft' if method.peer_config() else 'transformers'})"


def varying(settings: Sequence[BenchSetting]) -> list[str]:
    """Return which of a setting's words are not the same in all of them."""
    said = [setting.words() for setting in settings]
    return [name for name in said[0] if len({words[name] for words in said}) > 1]
