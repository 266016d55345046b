"""Ctrl-C and SIGTERM during a training: the step in progress ends first, so that its state can be saved."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from explora.errors import Interrupted

if TYPE_CHECKING:
    from explora.core.runs.events import Completed, RunEvent
    from explora.core.runs.running import Running


class Signals:
    """Context that notes Ctrl-C and SIGTERM, so that the current step can finish first.

    While `at_once` is set, and at a second signal unless `once`, it raises Interrupted immediately.
    """

    def __init__(self, *, once: bool = False) -> None:
        self.once = once
        self.at_once = False
        self.noted: int | None = None

    def __enter__(self) -> Signals:
        numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if callable(signal.getsignal(n))]
        self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        is_second, self.noted = self.noted is not None, number
        if is_second and self.once:
            return
        if self.at_once or is_second:
            raise Interrupted(number)


def train_to_end(running: Running, signals: Signals, see: Callable[[RunEvent], None]) -> Completed | None:
    """Train and pass each event to `see`. After a signal, save the state and raise Interrupted.

    A signal stops an evaluation immediately; the resumed run repeats it. Several processes stop together,
    after a step. A completed run is not interrupted. Returns None in a process that does not lead.
    """
    from explora.core.runs.events import Completed
    from explora.core.training.events import EvalStarted

    processes = running.training.processes
    is_alone = processes.size == 1
    completed = None
    try:
        for event in running.events():
            signals.at_once = is_alone and isinstance(event, EvalStarted)
            if isinstance(event, Completed):
                completed = event
            see(event)
            if processes.stop(signals.noted is not None):
                raise Interrupted(signals.noted or signal.SIGTERM)
    except Interrupted:
        if completed is None:
            running.save()
            raise
    return completed
