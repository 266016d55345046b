"""Predictions of memory for people: the parts of the peak, and what fits into a budget."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from explora import console
from explora.commands._settings import SETTINGS
from explora.commands._short_forms import short_form
from explora.core.config.registry import Shape
from explora.core.config.run_config import TrainRun
from explora.core.config.setting import spelled
from explora.core.estimate.budget import (
    HEADROOM,
    Choice,
    find_shortage,
    fit,
    largest_batch,
    least,
    smaller,
    with_one_row,
)
from explora.core.estimate.memory import predict
from explora.errors import TrainingError
from explora.quantities import size

if TYPE_CHECKING:
    from explora.core.runs.running import Running

Settings = Mapping[str, Any]
FRAGMENTATION = "fragmentation: freed memory that the allocator cannot reuse"
# What torch writes when an allocation fails, on a CPU and on a GPU.
OUT_OF_MEMORY = ("can't allocate memory", "out of memory")
KEPT_FREE = f"{100 * HEADROOM:.0f} %"
NO_ACTIVATIONS = "activations 0: memory peaks while no activations are stored"


@dataclass(frozen=True)
class Alternative:
    """A changed run that may need less memory, with its options and its longest rows in tokens."""

    run: TrainRun
    settings: Settings
    shape: Shape
    length: int


def choose(
    run: TrainRun,
    shape: Shape,
    length: int,
    budget: int | None,
    *,
    classes: int | None,
    alternatives: Iterable[Alternative],
) -> Choice:
    """Return the run unchanged, or with a `budget`, in bytes, with the batches that fit.

    Raises TrainingError with the least memory that the run needs, and the command of the first of the
    `alternatives` that fits.
    """
    if budget is None:
        return Choice(run=run, length=length, memory=predict(run, shape, length, classes=classes))
    if (found := fit(run, shape, length, budget, classes=classes)) is not None:
        return found
    smallest = least(run, shape, length, classes=classes)
    rows, what = f"rows of {length} tokens", f"{run.method.name} with"
    one_row = least(with_one_row(run), shape, length, classes=classes)
    if one_row.needs > budget:
        smallest, what = one_row, f"no batch size fits: {what} {rows}"
    else:
        what = f"{what} {_rows_of_step(run)} {rows} per optimizer step"
    raise TrainingError(
        f"{what} needs at least {size(smallest.needs)}, including {KEPT_FREE} to keep free "
        f"({smallest.options}); --budget allows {size(budget)}",
        _what_fits(alternatives, budget, classes),
    )


def _what_fits(alternatives: Iterable[Alternative], budget: int, classes: int | None) -> str:
    """Return a hint with the command of the first alternative that fits into `budget` bytes."""
    for each in alternatives:
        if (choice := fit(each.run, each.shape, each.length, budget, classes=classes)) is not None:
            return f"this fits: {_command(choice, each.settings)}"
    return "a larger --budget, a smaller base (--model) or shorter rows (--length) may fit"


def warn_if_short(running: Running) -> None:
    """Warn before the first step if a run will need more memory than is available, with what would fit."""
    from explora.core.machine.facts import available_memory_bytes, resident_memory_bytes

    run, model = running.run, running.session.model
    if run.runtime.device != "cpu":
        return
    found = find_shortage(
        run,
        model.shape,
        max(running.training.lengths),
        classes=None if model.score is None else model.score.out_features,
        resident=resident_memory_bytes(),
        available=available_memory_bytes(),
    )
    if found is None:
        return
    fits = "nothing smaller fits" if found.choice is None else f"this fits: {found.choice.options}"
    console.warn(
        f"this run will need about {size(found.needed)}, and {size(found.limit)} are available"
        + ("" if running.resumed_at else f"; {fits}")
    )


@contextmanager
def explaining_shortage(running: Running) -> Iterator[None]:
    """Turn a failed allocation during training into a TrainingError that names a batch size which fits."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(text in str(error) for text in OUT_OF_MEMORY):
            raise
        run = running.run
        raise TrainingError(
            f"out of memory at step {running.training.progress.step + 1}, with batches of "
            f"{run.training.batch_size} rows of up to {max(running.training.lengths)} tokens",
            _smaller(running),
        ) from None


def _smaller(running: Running) -> str:
    """Return a hint with a choice of batches that needs less memory."""
    from explora.core.machine.facts import available_memory_bytes, resident_memory_bytes

    run, model, length = running.run, running.session.model, max(running.training.lengths)
    on_cpu = run.runtime.device == "cpu"
    budget = resident_memory_bytes() + available_memory_bytes() if on_cpu else None
    classes = None if model.score is None else model.score.out_features
    found = smaller(run, model.shape, length, budget, classes=classes)
    if found is None:
        return "a smaller base (--model) or shorter rows (--max-length) may fit"
    return f"start again with smaller batches: explora train {run.task} ... {found.options} --overwrite"


def _rows_of_step(run: TrainRun) -> int:
    return run.training.batch_size * run.training.accumulate


def show_budget(choice: Choice, shape: Shape, budget: int, classes: int | None, settings: Settings) -> None:
    """Write the command that trains within a budget, in bytes, and the largest batch that fits into it.

    `settings` are those that the user gave, by name.
    """
    console.result(f"{_command(choice, settings)}\n")
    free, full = (
        largest_batch(choice.run, shape, choice.length, budget, classes=classes, headroom=headroom)
        for headroom in (HEADROOM, 0.0)
    )
    console.result(f"largest batch: {free:,} with {KEPT_FREE} of the memory kept free, {full:,} without\n")


def _command(choice: Choice, settings: Settings) -> str:
    """Return a command that can be pasted: the user's settings, with the batches of the choice."""
    own = ("method", "rank", "batch_size", "accumulate", "grad_checkpoint", "amp")
    words = [
        word
        for name, value in settings.items()
        if name not in own
        for word in (f"--{spelled(name)}", SETTINGS[name][0].show(value))
    ]
    given = f"{shlex.join(words)} " if words else ""
    length = f"--max-length {choice.length} --amp {choice.run.runtime.amp}"
    return f"explora train {choice.run.task} {short_form(choice.run.method)} {given}{length} {choice.options}"


def show(choice: Choice) -> None:
    """Write the parts of the memory as a table."""
    training, runtime = choice.run.training, choice.run.runtime
    times = f" x {training.accumulate}" if training.accumulate > 1 else ""
    precision = "fp32" if runtime.amp == "off" else runtime.amp
    again = ", checkpointing" if runtime.grad_checkpoint else ""
    setting = f"batch {training.batch_size}{times}, rows of {choice.length} tokens, {precision}{again}"
    rows = [(name, f"{number / 1e6:,.1f}") for name, number in asdict(choice.memory).items()]
    console.result_table(("peak memory", "MB"), [*rows, ("all", f"{choice.memory.peak / 1e6:,.1f}")])
    console.result(f"\npredicted for {setting}")
    console.result(FRAGMENTATION)
    if choice.memory.activations == 0:
        console.result(NO_ACTIVATIONS)
