"""The events of a training, in the order in which the loop yields them."""

from __future__ import annotations

from dataclasses import dataclass

from explora.core.training.checkpoint import Progress


@dataclass(frozen=True, kw_only=True)
class FeaturesDone:
    """The frozen blocks have processed `examples` of all `of` examples, before the step after `step`."""

    step: int
    examples: int
    of: int


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """One optimizer step is done.

    loss: mean over `items`, in nats; gradient_norm: before clipping; tokens: without padding; seconds:
    duration of the step; steps: planned total.
    """

    step: int
    steps: int
    epoch: int
    loss: float
    items: int
    learning_rate: float
    gradient_norm: float
    tokens: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class EvalStarted:
    """An evaluation starts. Until its EvalDone, `save()` writes the state after `step`."""

    step: int


@dataclass(frozen=True, kw_only=True)
class EvalDone:
    """An evaluation has a dev score; `best` if it is better than all earlier ones.

    The loop records the evaluation when the caller requests the next event, so that the caller can save the
    best adapter first.
    """

    step: int
    metric: str
    score: float
    best: bool


@dataclass(frozen=True, kw_only=True)
class Saved:
    """The resume state has been written."""

    step: int


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The training is complete; `stopped_early` if it stopped for lack of improvement (`patience`)."""

    progress: Progress
    stopped_early: bool


Event = FeaturesDone | StepDone | EvalStarted | EvalDone | Saved | Finished
