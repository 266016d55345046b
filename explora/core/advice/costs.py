"""What training costs: peak memory and time per token, from closed forms and from the study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from explora.core.advice.choosing import Expectation
from explora.core.config.precedence import resolve
from explora.core.config.registry import FULL_METHOD, TASKS, Shape, method_class
from explora.core.config.run_config import TrainRun
from explora.core.estimate.flop import step_flop
from explora.core.estimate.memory import predict


@dataclass(frozen=True, kw_only=True)
class Cost:
    """`pace` is time per token over that of full fine-tuning, `peak_bytes` the predicted peak memory."""

    pace: float
    peak_bytes: int

    @property
    def product(self) -> float:
        """Time times memory, as computers are rented."""
        return self.pace * self.peak_bytes


def plan_run(
    task: str, settings: Mapping[str, Any], contender: Mapping[str, Any], learning_rate: float
) -> TrainRun:
    """Return the run of a contender of the study, with settings that the user gave."""
    return resolve(task, {**settings, **contender, "learning_rate": learning_rate})[0]


def cost_of(
    run: TrainRun, expected: Expectation, *, shape: Shape, studied: Shape, length: int, classes: int | None
) -> Cost:
    """Return what a run costs on rows of up to `length` tokens.

    `shape` is that of its base, `studied` that of the study's. Where they differ, the pace is the ratio of
    floating-point operations, because the measured one belongs to the shape.
    """
    measured = expected.pace if shape == studied else None
    return Cost(
        pace=_flop(run, shape, length) if measured is None else measured,
        peak_bytes=predict(run, shape, length, classes=classes).peak,
    )


def _flop(run: TrainRun, shape: Shape, length: int) -> float:
    """Return the floating-point operations of a row over those of full fine-tuning."""
    answers = 1 if TASKS[run.task].one_position else None
    head = 0 if answers else length
    full = method_class(FULL_METHOD)()
    own = step_flop(shape, run.method, length, head, answers)
    return own / step_flop(shape, full, length, head, answers)
