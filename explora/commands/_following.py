"""Show the progress of a training, and save its state on Ctrl-C or SIGTERM."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from explora import console
from explora.core.runs.signals import Signals, train_to_end
from explora.errors import Interrupted, WriteError
from explora.quantities import duration, size

if TYPE_CHECKING:
    from explora.core.runs.events import Completed, RunEvent
    from explora.core.runs.running import Running
    from explora.core.training.events import StepDone

Observer = Callable[["RunEvent"], None]
SHOWN_EVERY = 0.01  # seconds: collecting the figures takes as long as a short step


@contextmanager
def before_first_step(*, is_resumed: bool, can_repeat: bool) -> Iterator[None]:
    """Explain an interruption before the first step: what is saved, and how to start again.

    can_repeat: the same command starts again, because it has --resume or --overwrite.
    """
    try:
        yield
    except Interrupted as interrupt:
        saved = "the saved state is unchanged" if is_resumed else "nothing was saved"
        interrupt.message = f"interrupted before the first step; {saved}"
        interrupt.hint = f"start again with the same command{'' if can_repeat else ' and --resume'}"
        raise


def follow(running: Running, observers: Sequence[Observer] = ()) -> Completed | None:
    """Train to the end and show the progress; on Ctrl-C or SIGTERM, save the state and raise Interrupted.

    Each of the `observers` is called with each event. A signal lets the current step finish. It stops an
    evaluation at once; --resume then repeats it. A WriteError names the state that is safe. Returns None in
    every process but the leading one.
    """
    try:
        return _follow(running, observers)
    except WriteError as error:
        error.hint = "; ".join(part for part in (error.hint, _what_is_safe(running)) if part)
        raise


def _what_is_safe(running: Running) -> str:
    """Return which state is safe after a failed write, and how to continue."""
    if step := running.saved_step():
        command = f"explora train {running.run.task} -o {running.folder} --resume"
        return f"the state of step {step} is safe: {command}"
    return "no state was saved before: start again with --overwrite"


def _follow(running: Running, observers: Sequence[Observer]) -> Completed | None:
    training = running.training
    is_alone = training.processes.size == 1  # of several processes, torchrun may signal each more than once
    with (
        Signals(once=not is_alone) as signals,
        console.progress("train", training.steps, running.resumed_at) as advance,
    ):
        display = _Display(advance)

        def see(event: RunEvent) -> None:
            display.show(event)
            for observe in observers:
                observe(event)

        try:
            return train_to_end(running, signals, see)
        except Interrupted as interrupt:
            step = f"stopped after step {training.progress.step} of {training.steps}"
            interrupt.message = f"{step}; the state is saved"
            interrupt.hint = f"explora train {running.run.task} -o {running.folder} --resume"
            raise


class _Display:
    """Show events, on the progress bar or as separate lines."""

    def __init__(self, advance: console.Advance) -> None:
        self.advance, self.dev, self.shown_at = advance, "", -math.inf

    def show(self, event: RunEvent) -> None:
        from explora.core.runs.events import Fitted, TimeIsUp
        from explora.core.runs.full_fine_tuning import FullFineTuningCost
        from explora.core.training.events import EvalDone, FeaturesDone, StepDone

        if isinstance(event, StepDone):
            self._show_step(event)
        elif isinstance(event, FeaturesDone):
            examples = f"{event.examples:,} of {event.of:,} examples"
            self.advance(event.step, f"output of the frozen blocks: {examples}")
        elif isinstance(event, FullFineTuningCost):
            console.note(
                f"this run: about {duration(event.seconds)} in total, peak memory "
                f"{size(event.peak_memory_bytes)}; full fine-tuning: about {duration(event.full_seconds)}, "
                f"{size(event.full_peak_memory_bytes)}"
            )
        elif isinstance(event, Fitted):
            console.note(f"{event.steps:,} steps fit; to repeat this run: --max-steps {event.steps}")
        elif isinstance(event, TimeIsUp):
            console.warn(
                f"the machine became slower and the time is up: step {event.step} is the last one. The "
                "learning rate has not decayed to zero, and this run cannot be repeated exactly"
            )
        elif isinstance(event, EvalDone):
            self.dev = f"  dev {event.metric} {event.score:.4f}"
            best = ", the best so far" if event.best else ""
            console.note(f"step {event.step}: dev {event.metric} {event.score:.4f}{best}")

    def _show_step(self, event: StepDone) -> None:
        from explora.core.machine.facts import peak_memory_bytes

        now = time.monotonic()
        if now - self.shown_at < SHOWN_EVERY and event.step < event.steps:
            return
        self.shown_at = now
        speed, memory = event.tokens / event.seconds, size(peak_memory_bytes())
        facts = f"loss {event.loss:.4f}{self.dev}  {speed:,.0f} tokens/s  {memory}"
        self.advance(event.step, facts, event.steps)
