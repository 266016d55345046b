"""What a contender is asked to learn and what became of it. Light: the parent process needs no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from explora.core.config.run_config import TrainRun


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A training of so many steps, scored also after `seconds` of it; None where that is not known yet."""

    run: TrainRun
    steps: int
    seconds: float | None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {"run": self.run.to_json(), "steps": self.steps, "seconds": self.seconds}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Lesson:
        """The inverse of `to_json`."""
        return cls(**{**value, "run": TrainRun.from_json(value["run"])})


@dataclass(frozen=True, kw_only=True)
class Point:
    """The dev score and its 95 % interval after so many steps and seconds of training alone."""

    steps: int
    seconds: float
    score: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What a method learns on real rows, in one training with one seed.

    `equal_steps` is the score after as many steps as every other contender of the setting took,
    `equal_time` that after the time that the fastest of them took for these. The intervals are over the
    `examples` of dev.
    """

    metric: str
    higher_is_better: bool
    examples: int
    equal_steps: Point
    equal_time: Point
    curve: tuple[Point, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Learned:
        """The inverse of `to_json`."""
        points = {name: Point(**value[name]) for name in ("equal_steps", "equal_time")}
        return cls(**{**value, **points, "curve": tuple(Point(**point) for point in value["curve"])})
