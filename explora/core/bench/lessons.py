"""A contender's training for scores, and its result. The parent process does not need torch for either."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from explora.core.config.run_config import TrainRun
from explora.core.tasks.metrics import Score
from explora.core.tasks.trivial import Trivial

SHARES = (0.25, 0.5, 1.0)  # of the steps, and of the time, after which scores are computed


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A training of at least `steps` steps and the longest of `seconds`, scored at the shares of both.

    `seconds` is empty for the contender whose own time sets the times of the others: see `Learned.seconds`.
    """

    run: TrainRun
    steps: int
    seconds: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the lesson as plain JSON data."""
        return {"run": self.run.to_json(), "steps": self.steps, "seconds": list(self.seconds)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Lesson:
        """Build a lesson from the output of `to_json`."""
        return cls(
            run=TrainRun.from_json(value["run"]), steps=value["steps"], seconds=tuple(value["seconds"])
        )


def marks(steps: int) -> list[int]:
    """Return the steps of a lesson after which it is scored; the last is its end."""
    return [max(1, round(share * steps)) for share in SHARES]


@dataclass(frozen=True, kw_only=True)
class Point:
    """The dev score and its 95 % interval after some steps and seconds of training, evaluations not included.

    `statistics` has the score's counts of each dev row, so that two contenders can be paired row by row.
    """

    steps: int
    seconds: float
    score: float
    low: float
    high: float
    statistics: Score

    def to_json(self) -> dict[str, Any]:
        """Return the point as plain JSON data, with the statistics of every row."""
        return self.summary() | {"statistics": self.statistics.to_json()}

    def summary(self) -> dict[str, Any]:
        """Return the point without the statistics of its rows."""
        return {name: getattr(self, name) for name in ("steps", "seconds", "score", "low", "high")}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Point:
        """Build a point from the output of `to_json`."""
        return cls(**{**value, "statistics": Score.from_json(value["statistics"])})


@dataclass(frozen=True, kw_only=True)
class Learned:
    """The scores of a method on real rows, in one training with one seed.

    `curve` begins before the first step. `steps` is the same for every contender of a setting. `seconds` are
    the shares of the time that the slowest of them took for these steps. `trivial` is the best trivial answer
    to the `examples` dev rows.
    """

    metric: str
    higher_is_better: bool
    examples: int
    trivial: Trivial | None
    steps: int
    seconds: tuple[float, ...]
    curve: tuple[Point, ...]

    @property
    def untrained(self) -> Point:
        """The score before the first step."""
        return self.curve[0]

    @property
    def equal_steps(self) -> Point:
        """The score after the same number of steps as every other contender of the setting."""
        return self.at_step(self.steps)

    @property
    def equal_time(self) -> Point:
        """The score after the whole time that the slowest contender took."""
        return self.after(self.seconds[-1])

    def at_step(self, step: int) -> Point:
        """Return the score after `step` steps."""
        return next(point for point in self.curve if point.steps == step)

    def after(self, seconds: float) -> Point:
        """Return the first score after `seconds` seconds of training."""
        return next(point for point in self.curve if point.seconds >= seconds)

    def timed_by_itself(self) -> Learned:
        """Return the same with the shares of the time that this contender took."""
        return dataclasses.replace(
            self, seconds=tuple(self.at_step(mark).seconds for mark in marks(self.steps))
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data, with the statistics of every row."""
        return {
            **{item.name: getattr(self, item.name) for item in dataclasses.fields(self)},
            "seconds": list(self.seconds),
            "trivial": dataclasses.asdict(self.trivial) if self.trivial else None,
            "curve": [point.to_json() for point in self.curve],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Learned:
        """Build a Learned from the output of `to_json`."""
        trivial = Trivial(**value["trivial"]) if value["trivial"] else None
        curve = tuple(Point.from_json(point) for point in value["curve"])
        return cls(**{**value, "seconds": tuple(value["seconds"]), "trivial": trivial, "curve": curve})

    def summary(self) -> dict[str, Any]:
        """Return the object in `bench --json`: the points by name, without the statistics of their rows."""
        return {
            "metric": self.metric,
            "higher_is_better": self.higher_is_better,
            "examples": self.examples,
            "trivial_score": self.trivial.value if self.trivial else None,
            "trivial_answer": self.trivial.answer if self.trivial else None,
            "untrained": self.untrained.summary(),
            "equal_steps": self.equal_steps.summary(),
            "equal_time": self.equal_time.summary(),
            "budgets": [self.after(seconds).summary() | {"budget": seconds} for seconds in self.seconds],
            "curve": [point.summary() for point in self.curve],
        }
