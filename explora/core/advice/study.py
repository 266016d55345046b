"""The rows of the study that the package holds: cells, and the trainings of each cell.

`python -m benchmarks.study.ship` writes the file. Light: no torch, no numpy.
"""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from explora.core.config.registry import Shape


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What trainings have in common whose scores can be compared: base, rows, epochs, batch size.

    `name` identifies it. `examples` is the number of training rows, `length` their mean number of tokens.
    `trivial` is the best score of an answer without a model.
    """

    name: str
    task: str
    data: str
    base: str
    examples: int
    epochs: int
    batch_size: int
    amp: str
    length: float
    metric: str
    higher_is_better: bool
    trivial: float | None


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training. `dev` chooses the learning rate and the step; `score` is from other rows.

    Both are None for a training that diverged. `error` is the paired standard error, over the rows, of the
    difference from the best training of the same cell and seed, in points (see `points`). `forgetting` is
    the increase in nats per token of a general text.
    """

    cell: str
    contender: str
    learning_rate: float
    seed: int
    dev: float | None
    score: float | None
    error: float | None
    forgetting: float | None
    steps: int | None
    tokens: int | None
    trainable: int | None
    processor_seconds: float | None


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the rows come from: the file in the repository, its SHA-256, and the number of its rows."""

    file: str
    sha256: str
    rows: int


@dataclass(frozen=True, kw_only=True)
class Study:
    """The whole study. `contenders` are settings of a method; `bases` have digest and shape."""

    source: Source
    bases: Mapping[str, Mapping[str, Any]]
    contenders: Mapping[str, Mapping[str, Any]]
    cells: Mapping[str, Cell]
    trials: tuple[Trial, ...]

    def shape(self, base: str) -> Shape:
        """Return the shape of a base of the study."""
        return Shape(**self.bases[base]["shape"])

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Study:
        """Return the study from the object that `ship` wrote."""
        names = value["columns"]
        return cls(
            source=Source(**value["source"]),
            bases=value["bases"],
            contenders=value["contenders"],
            cells={name: Cell(name=name, **facts) for name, facts in value["cells"].items()},
            trials=tuple(Trial(**dict(zip(names, row, strict=True))) for row in value["trials"]),
        )


def shipped_file() -> Path:
    """Return the file inside the package."""
    return Path(str(importlib.resources.files("explora"))) / "assets" / "study" / "trials.json"


def read_study() -> Study:
    """Return the study that the package holds."""
    return Study.from_json(json.loads(shipped_file().read_text(encoding="utf-8")))


def points(difference: float, *, best: float, higher_is_better: bool) -> float:
    """Return how much worse than `best` a score is, in points.

    A point is 0.01 of a share such as accuracy, or 2 % of the best perplexity.
    """
    return 100 * difference if higher_is_better else 50 * difference / best
