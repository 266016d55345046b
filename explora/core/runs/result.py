"""The result of a finished run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from explora.core.runs.full_fine_tuning import FullFineTuningCost
from explora.core.tasks.contract import Evaluation


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """The result of a finished run.

    total: parameters of the base and of a linear head; trainable: trained parameters; skipped: bad rows of
    train and dev; seconds: training and evaluations, across interruptions; evaluation: of the best step, on
    dev; peak_memory_bytes: of the leading process, the maximum across interruptions; processor_seconds: of
    all its threads, None in records of earlier versions; processes: that trained together at the end;
    global_batch: examples per optimizer step; sent_bytes: gradients that each process sends per step.
    """

    run: str
    task: str
    method: str
    model: str
    total: int
    trainable: int
    evaluation: Evaluation
    best_step: int
    steps: int
    stopped_early: bool
    examples: int
    skipped: int
    seconds: float
    tokens: int
    peak_memory_bytes: int
    full_fine_tuning: FullFineTuningCost | None
    processes: int = 1
    global_batch: int | None = None  # not recorded by earlier versions
    sent_bytes: int = 0
    processor_seconds: float | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TrainResult:
        """Build the result from run.json. It has no predictions and no number of dev examples."""
        own = {item.name: value[item.name] for item in dataclasses.fields(cls) if item.name in value}
        scores, full = value["scores"], value["full_fine_tuning"]
        evaluation = Evaluation(
            examples=0,
            scores=None if scores is None else {name: _number(score) for name, score in scores.items()},
            intervals={
                name: (_number(low), _number(high)) for name, (low, high) in value["intervals"].items()
            },
            floors={name: _number(floor) for name, floor in value["floors"].items()},
            trivial_answers=value.get("trivial_answers", {}),  # not recorded by earlier versions
            higher_is_better=value.get("higher_is_better", {}),
            notes=value.get("notes", ()),
        )
        cost = full and FullFineTuningCost(**full)
        return cls(**own | {"evaluation": evaluation, "full_fine_tuning": cost})

    @property
    def share(self) -> float:
        """Share of the model's parameters that are trained."""
        return self.trainable / self.total

    @property
    def tokens_per_second(self) -> float:
        """Tokens read per second of training."""
        return self.tokens / max(self.seconds, 1e-9)

    def to_json(self) -> dict[str, Any]:
        """Return the result as `train --json` prints it and run.json records it."""
        found, full = self.evaluation, self.full_fine_tuning
        return {
            "run": self.run,
            "task": self.task,
            "method": self.method,
            "model": self.model,
            "total": self.total,
            "trainable": self.trainable,
            "share": self.share,
            **found.to_json(),
            "best_step": self.best_step,
            "steps": self.steps,
            "stopped_early": self.stopped_early,
            "examples": self.examples,
            "skipped": self.skipped,
            "seconds": self.seconds,
            "processor_seconds": self.processor_seconds,
            "tokens": self.tokens,
            "tokens_per_second": round(self.tokens_per_second, 1),
            "peak_memory_bytes": self.peak_memory_bytes,
            "processes": self.processes,
            "global_batch": self.global_batch,
            "sent_bytes": self.sent_bytes,
            "full_fine_tuning": dataclasses.asdict(full) if full else None,
        }


def _number(recorded: float | None) -> float:
    """Return a recorded number; JSON has null instead of NaN and infinity."""
    return math.nan if recorded is None else recorded
