"""Memory for people: the parts of a prediction, and what fits into a budget."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from explora import console
from explora.commands._short_forms import short_form
from explora.core.config.registry import Shape
from explora.core.config.run_config import TrainRun
from explora.core.estimate.budget import Choice, find_shortage, fit, least, smaller
from explora.core.estimate.memory import predict
from explora.errors import TrainingError
from explora.quantities import size

if TYPE_CHECKING:
    from explora.core.runs.running import Running

FRAGMENTATION = "fragmentation: freed memory that the allocator cannot reuse"
# What torch writes when an allocation fails, on a CPU and on a GPU.
OUT_OF_MEMORY = ("can't allocate memory", "out of memory")
NO_ACTIVATIONS = "activations 0: memory is largest while nothing is kept for a backward pass"


def choose(
    run: TrainRun,
    shape: Shape,
    length: int,
    budget: int | None,
    *,
    classes: int | None,
    others: Iterable[TrainRun],
) -> Choice:
    """Return the run as it is, or with a `budget`, in bytes, in the portions that fit.

    `others` are runs of other methods, to name where none fits. Raises TrainingError with the least that is
    needed.
    """
    if budget is None:
        return Choice(run=run, length=length, memory=predict(run, shape, length, classes=classes))
    if (found := fit(run, shape, length, budget, classes=classes)) is not None:
        return found
    smallest = least(run, shape, length, classes=classes)
    fitting = [
        f"{short_form(choice.run.method)} {choice.options}"
        for other in others
        if (choice := fit(other, shape, length, budget, classes=classes)) is not None
    ]
    raise TrainingError(
        f"{run.method.name} on {_rows_of_step(run)} rows of {length} tokens to a step needs at least "
        f"{size(smallest.needs)}, a tenth of it to spare ({smallest.options}), which is more than "
        f"{size(budget)}",
        f"this fits: {'; '.join(fitting)}" if fitting else "a smaller base (--model) or shorter rows may fit",
    )


def warn_if_short(running: Running) -> None:
    """Say before the first step that a run will need more memory than there is, and what would fit."""
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
        f"this run will need about {size(found.needed)} and can have {size(found.limit)}"
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


def show(choice: Choice, *, is_chosen: bool) -> None:
    """Write the parts as a table, and with `is_chosen` the options to paste."""
    training, runtime = choice.run.training, choice.run.runtime
    times = f" x {training.accumulate}" if training.accumulate > 1 else ""
    precision = "fp32" if runtime.amp == "off" else runtime.amp
    again = ", checkpointing" if runtime.grad_checkpoint else ""
    size = f"batch {training.batch_size}{times}, rows of {choice.length} tokens, {precision}{again}"
    if is_chosen:
        console.result(f"explora train {choice.run.task} ... {choice.options}\n")
    rows = [(name, f"{number / 1e6:,.1f}") for name, number in asdict(choice.memory).items()]
    console.result_table(("memory at its peak", "MB"), [*rows, ("all", f"{choice.memory.peak / 1e6:,.1f}")])
    console.result(f"\npredicted for {size}")
    console.result(FRAGMENTATION)
    if choice.memory.activations == 0:
        console.result(NO_ACTIVATIONS)
