"""The request to a cell and its answer. The parent process does not need torch for either."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from explora.core.config.run_config import TrainRun

EXPLORA = "explora"
WARMUP_STEPS = 2  # the first step has the longest batch, so that the peak memory is reached
FEWEST_STEPS = 2


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measurement of a run whose runtime is resolved.

    `length`: every row is filled to this number of tokens; None leaves rows unchanged. `steps`: the number of
    timed steps after the warm-up; None for as many as fit into `seconds`, warm-up included.
    """

    run: TrainRun
    length: int | None
    steps: int | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the cell as plain JSON data."""
        return {
            "run": self.run.to_json(),
            "length": self.length,
            "steps": self.steps,
            "seconds": self.seconds,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Cell:
        """Build a cell from the output of `to_json`."""
        return cls(**{**value, "run": TrainRun.from_json(value["run"])})


@dataclass(frozen=True, kw_only=True)
class MemoryParts:
    """Parts of the peak memory, in bytes.

    `runtime` is measured: the memory of the process after its steps, minus the tensors that outlive a step.
    The others are sums over tensors at the moment when they are largest, in the step with the longest batch.
    """

    runtime: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    temporaries: int


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Result of a cell. Seconds, examples, real tokens and FLOP are sums over the timed steps.

    `flop` counts the matrix products that the method needs for the real tokens. `matrix_peak` is the FLOP/s
    of a large product in the same process and dtype. `first_loss` is the loss per item of the first batch
    before any update. `rows` is a digest of the token ids of all steps.
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
        """Return the measurement as plain JSON data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Measurement:
        """Build a measurement from the output of `to_json`."""
        return cls(**{**value, "parts": MemoryParts(**value["parts"])})


@dataclass(frozen=True, kw_only=True)
class BenchSetting:
    """The common setting of contenders that are compared with each other. `length`: see Cell."""

    batch_size: int
    length: int | None
    amp: str
    grad_checkpoint: bool

    def words(self) -> dict[str, str]:
        """Return the text of each of the four values in output."""
        return {
            "batch": f"{self.batch_size}",
            "length": "as it is" if self.length is None else f"{self.length}",
            "precision": "fp32" if self.amp == "off" else self.amp,
            "checkpointing": "on" if self.grad_checkpoint else "off",
        }

    def described(self, names: Sequence[str]) -> str:
        """Return some of the values with their names: `batch 4, precision bf16`."""
        words = self.words()
        return ", ".join(f"{name} {words[name]}" for name in names)


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A compared run: the run, the `length` of its rows (see Cell), and its stack, explora or others."""

    run: TrainRun
    length: int | None = None
    stack: str = EXPLORA

    @property
    def is_own(self) -> bool:
        """Whether it runs on explora itself."""
        return self.stack == EXPLORA

    @property
    def setting(self) -> BenchSetting:
        """The setting that it shares with the contenders it is compared with."""
        return BenchSetting(
            batch_size=self.run.training.batch_size,
            length=self.length,
            amp=self.run.runtime.amp,
            grad_checkpoint=self.run.runtime.grad_checkpoint,
        )

    @property
    def name(self) -> str:
        """Its name in output."""
        method = self.run.method
        if self.is_own:
            return method.label
        return f"{method.label} ({'peft' if method.peer_config() else 'transformers'})"


def varying(settings: Sequence[BenchSetting]) -> list[str]:
    """Return the names of the values that differ between settings."""
    said = [setting.words() for setting in settings]
    return [name for name in said[0] if len({words[name] for words in said}) > 1]
