"""Send the metrics of a run to an experiment tracker. Each tracker needs its own package.

TensorBoard and trackio write to this machine. wandb sends the metrics to its server by default.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from explora.errors import UsageError

if TYPE_CHECKING:
    from explora.core.runs.events import RunEvent
    from explora.core.runs.running import Running

PROJECT = "explora"
TENSORBOARD_FOLDER = "tensorboard"  # inside the run folder


class Tracker(Protocol):
    """A destination for metrics."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Record the metrics of a step, by name."""

    def close(self) -> None:
        """Write buffered metrics and close."""


class TensorBoard:
    """Tracker that writes event files into the run folder."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(folder / TENSORBOARD_FOLDER))
        self.writer.add_text("settings", f"```json\n{json.dumps(settings, indent=2)}\n```")

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Add a scalar for each metric."""
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush the event file."""
        self.writer.close()


class WandbLike:
    """Tracker for a package with the interface of wandb, such as trackio."""

    def __init__(self, package: str, folder: Path, settings: Mapping[str, Any]) -> None:
        self.package = importlib.import_module(package)
        self.package.init(project=PROJECT, name=str(folder), config=dict(settings))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Log the metrics of a step in one call."""
        self.package.log(dict(figures), step=step)

    def close(self) -> None:
        """Finish the run."""
        self.package.finish()


Make = Callable[[Path, Mapping[str, Any]], Tracker]
TRACKERS: Mapping[str, Make] = MappingProxyType(
    {
        "tensorboard": TensorBoard,
        "trackio": lambda folder, settings: WandbLike("trackio", folder, settings),
        "wandb": lambda folder, settings: WandbLike("wandb", folder, settings),
    }
)


def check_tracker(name: str) -> None:
    """Raise UsageError for a tracker that is unknown or not installed."""
    if name not in TRACKERS:
        raise UsageError(f"--track {name}: choose one of {', '.join(TRACKERS)}")
    if importlib.util.find_spec(name) is None:
        raise UsageError(f"--track {name} needs the package {name}", f"pip install 'explora[{name}]'")


@contextmanager
def tracking(name: str, running: Running) -> Iterator[Callable[[RunEvent], None]]:
    """Yield a function that sends the metrics of an event to a tracker; the tracker is closed at the end."""
    tracker = TRACKERS[name](running.place, running.run.to_json())

    def observe(event: RunEvent) -> None:
        step, figures = _figures(event)
        if figures:
            tracker.log(step, figures)

    try:
        yield observe
    finally:
        tracker.close()


def _figures(event: RunEvent) -> tuple[int, dict[str, float]]:
    """Return the step of an event and its metrics by name; no metrics for other events."""
    from explora.core.runs.events import Completed
    from explora.core.training.events import EvalDone, StepDone

    if isinstance(event, StepDone):
        return event.step, {
            "train/loss": event.loss,
            "train/learning_rate": event.learning_rate,
            "train/gradient_norm": event.gradient_norm,
            "train/tokens_per_second": event.tokens / event.seconds,
        }
    if isinstance(event, EvalDone):
        return event.step, {f"dev/{event.metric}": event.score}
    if isinstance(event, Completed):
        scores = event.result.evaluation.scores or {}
        return event.result.steps, {f"best/{name}": value for name, value in scores.items()}
    return 0, {}
