"""The events of a run: those of its training, and those that the run adds."""

from __future__ import annotations

from dataclasses import dataclass

from explora.core.runs.full_fine_tuning import FullFineTuningCost
from explora.core.runs.result import TrainResult
from explora.core.training.events import Event


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """The number of steps that fit into the minutes of the run; the schedule uses it."""

    steps: int


@dataclass(frozen=True, kw_only=True)
class TimeIsUp:
    """The run ends at this step, because the machine has become slower than it was at the start."""

    step: int


@dataclass(frozen=True, kw_only=True)
class Completed:
    """The run is complete: its adapter, its record and its model card have been written."""

    result: TrainResult


RunEvent = Event | Fitted | TimeIsUp | FullFineTuningCost | Completed
