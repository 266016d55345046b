"""Observe a training beside the progress display: samples for a report, and an experiment tracker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from explora.commands._following import Observer
from explora.commands._settings import completion
from explora.core.runs.tracking import TRACKERS, tracking

if TYPE_CHECKING:
    from explora.core.runs.running import Running

Track = Annotated[
    str | None,
    typer.Option(
        "--track",
        metavar="|".join(TRACKERS),
        rich_help_panel="Output",
        autocompletion=completion(tuple(TRACKERS)),
        help="Send the figures of the run to an experiment tracker too (default: no tracker).",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Watching:
    """Whether to collect samples for a report, and the name of a tracker or None."""

    with_samples: bool
    track: str | None


@contextmanager
def observing(running: Running, watching: Watching) -> Iterator[list[Observer]]:
    """Yield the functions to call with each event of a run."""
    from explora.core.runs.sampler import samplers

    observers: list[Observer] = [*samplers(running)] if watching.with_samples else []
    if watching.track is None:
        yield observers
        return
    with tracking(watching.track, running) as track:
        yield [*observers, track]
