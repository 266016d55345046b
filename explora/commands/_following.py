"""Following a training: its events to a progress bar, Ctrl-C and SIGTERM to a saved state."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from explora import console
from explora.errors import Interrupted

if TYPE_CHECKING:
    from explora.core.running import Completed, Event, Running


def follow(running: Running) -> Completed:
    """Draw the events; on Ctrl-C or SIGTERM save the state and raise Interrupted.

    A step is finished first; an evaluation is broken off, and done again after --resume.
    """
    from explora.core.running import Completed, EvalDone, EvalStarted

    training = running.training
    dev, completed = "", None
    with _Signals() as signals, console.progress("train", training.steps, running.resumed_at) as advance:
        try:
            for event in running.events():
                signals.at_once = isinstance(event, EvalStarted)
                if isinstance(event, Completed):
                    completed = event
                elif isinstance(event, EvalDone):
                    dev = f"  dev {event.metric} {event.score:.4f}"
                _show_event(event, dev, advance)
                signals.check()
        except Interrupted as interrupt:
            if completed is None:
                running.save()
                step = f"stopped after step {training.progress.step} of {training.steps}"
                interrupt.message = f"{step}; the state is saved"
                interrupt.hint = f"explora train {running.run.task} -o {running.folder} --resume"
                raise
    assert completed is not None
    return completed


def _show_event(event: Event | Completed, dev: str, advance: Callable[[int, str], None]) -> None:
    from explora.core.measure import peak_memory_bytes
    from explora.core.running import EvalDone, FeaturesDone, StepDone

    if isinstance(event, StepDone):
        speed, memory = event.tokens / event.seconds, console.size(peak_memory_bytes())
        advance(event.step, f"loss {event.loss:.4f}{dev}  {speed:,.0f} tokens/s  {memory}")
    elif isinstance(event, FeaturesDone):
        advance(event.step, f"output of the frozen blocks: {event.examples:,} of {event.of:,} examples")
    elif isinstance(event, EvalDone):
        best = ", the best so far" if event.best else ""
        console.note(f"step {event.step}: dev {event.metric} {event.score:.4f}{best}")


class _Signals:
    """Note Ctrl-C and SIGTERM until `check`, or raise Interrupted at once while that is asked for."""

    def __init__(self) -> None:
        self.at_once = False
        self.noted: int | None = None

    def __enter__(self) -> _Signals:
        numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if callable(signal.getsignal(n))]
        self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.at_once or self.noted is not None:
            raise Interrupted(number)
        self.noted = number

    def check(self) -> None:
        if self.noted is not None:
            raise Interrupted(self.noted)
