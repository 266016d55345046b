"""The verdict of a bench on this machine: two sentences for each setting, and reasons for doubt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from explora.core.bench.comparisons import (
    Comparison,
    beats_no_learning,
    is_better,
    is_full,
    settings_of_rows,
    subject_of,
)
from explora.core.bench.lessons import Learned
from explora.core.bench.measurements import varying
from explora.core.bench.rows import BenchRow
from explora.core.config.registry import DEFAULT_METHOD
from explora.core.tasks.metrics import FEW_EXAMPLES

BUSY = 0.2  # of a processor: the load of an idle system
ENOUGH_REPEATS = 3
SPEED = {1: "faster", 0: "neither faster nor slower", -1: "slower"}
MEMORY = {1: "more memory", 0: "neither more nor less memory", -1: "less memory"}


def verdict(
    rows: Sequence[BenchRow], comparisons: Sequence[Comparison], machine: Mapping[str, Any]
) -> list[str]:
    """Return two sentences for each setting, and reasons why the figures may be unreliable.

    `machine` is the description of the machine, with `busy_elsewhere`: processors that other programs kept
    busy.
    """
    measured = [row for row in rows if row.spread is not None]
    settings = settings_of_rows(measured)
    names = varying(settings)
    sentences: list[str] = []
    for setting in settings:
        group = [row for row in measured if row.setting == setting]
        against_full = next(
            (each for each in comparisons if each.row.setting == setting and is_full(each.other)), None
        )
        said = _of_comparison(against_full, machine) if against_full else [_incomplete(group)]
        where = setting.described(names)
        sentences += [f"With {where}: {said[0]}", *said[1:]] if where else said
    return [*sentences, *_doubts(measured, machine)]


def _incomplete(group: Sequence[BenchRow]) -> str:
    """Return why there is no verdict if full fine-tuning or everything else is missing."""
    subject = subject_of(group)
    if subject is None:
        return "No verdict: full fine-tuning was measured alone. Add a method: --methods full,lora"
    name = "LoRA" if subject.method == DEFAULT_METHOD else subject.name
    return f"No verdict on {name}: full fine-tuning was not measured. Add full to --methods."


def _of_comparison(against_full: Comparison, machine: Mapping[str, Any]) -> list[str]:
    """Return, in two sentences, the subject's costs and scores compared with full fine-tuning."""
    learned, other = against_full.row.quality, against_full.other.quality
    if learned is None and other is None:
        return [_costs(against_full, machine, ""), "What they learn was not measured: add --quality."]
    if learned is None or other is None:
        failed = (against_full.row if learned is None else against_full.other).name
        return [_costs(against_full, machine, ""), f"No verdict on learning: {failed} has no score."]
    if not any(beats_no_learning(each, each.equal_time) for each in (learned, other)):
        return [_costs(against_full, machine, ""), _nothing_learned(against_full, learned)]
    clause = _clause(against_full, learned)
    return [_costs(against_full, machine, clause), _scores(against_full, learned, other)]


def _costs(found: Comparison, machine: Mapping[str, Any], clause: str) -> str:
    row, speed, memory = found.row, found.speed, found.memory
    precision = "fp32" if row.amp == "off" else row.amp
    cores = "1 core" if machine["cores"] == 1 else f"{machine['cores']} cores"
    threads = {None: "", 1: "1 thread on "}.get(row.threads, f"{row.threads} threads on ")
    where = f"({threads}{cores}, {precision}, {row.task}, batch {row.batch_size})"
    if not found.has_spread:
        return (
            f"No verdict: one repeat shows no spread {where}. {row.name} had {speed.median:.2f} times the "
            f"speed and {memory.median:.2f} times the peak memory of full fine-tuning. "
            f"Measure the spread with --repeats {ENOUGH_REPEATS}."
        )
    return (
        f"Compared with full fine-tuning, {row.name} is {SPEED[speed.direction]} ({speed.median:.2f} times) "
        f"and needs {MEMORY[memory.direction]} ({memory.median:.2f} times){clause} {where}."
    )


def _clause(found: Comparison, learned: Learned) -> str:
    """Return the difference of the scores as the end of a sentence."""
    estimate = found.scores[-1].estimate
    if is_better(learned, estimate):
        return f", and its {learned.metric} after equal time is better here"
    if estimate.low <= 0 <= estimate.high:
        return f", and no difference in {learned.metric} after equal time was found"
    return f", but its {learned.metric} after equal time is worse here"


def _scores(found: Comparison, learned: Learned, other: Learned) -> str:
    estimate = found.scores[-1].estimate
    difference = (
        "the same on every row"
        if estimate.low == estimate.high == 0
        else f"difference {estimate.value:+.3f}, 95 % interval {estimate.low:+.3f} to {estimate.high:+.3f}"
    )
    return (
        f"After {learned.seconds[-1]:.1f} s of training each, {found.row.name} has {learned.metric} "
        f"{learned.equal_time.score:.3f} and full fine-tuning {other.equal_time.score:.3f} "
        f"({difference}, {learned.examples:,} rows); after {learned.steps} steps each "
        f"{learned.equal_steps.score:.3f} and {other.equal_steps.score:.3f}; {_without_learning(learned)}."
    )


def _nothing_learned(found: Comparison, learned: Learned) -> str:
    return (
        f"No verdict on learning: after {learned.seconds[-1]:.1f} s each, neither {found.row.name} nor full "
        f"fine-tuning has a better {learned.metric} than both the untrained model and a trivial answer "
        f"({_without_learning(learned)}). Use more rows (--data), more steps "
        f"(--quality-steps {4 * learned.steps}), or find a learning rate that works (explora train --lr)."
    )


def _without_learning(learned: Learned) -> str:
    """Return the scores of the untrained model and of the best trivial answer."""
    untrained = f"the untrained model has {learned.untrained.score:.3f}"
    if learned.trivial is None:
        return untrained
    return f'{untrained}, the trivial answer "{learned.trivial.answer}" {learned.trivial.value:.3f}'


def _doubts(measured: Sequence[BenchRow], machine: Mapping[str, Any]) -> list[str]:
    """Return reasons why the figures may be unreliable."""
    doubts = []
    learned = next((row.quality for row in measured if row.quality is not None), None)
    if learned is not None:
        doubts.append("Each method was trained once, with one seed; the intervals are over the dev rows.")
    if learned is not None and learned.examples < FEW_EXAMPLES:
        doubts.append(f"{learned.examples} dev rows are weak evidence: use {FEW_EXAMPLES} or more.")
    busy, processors = machine["busy_elsewhere"], machine["processors"]
    if busy + (measured[0].threads or 1) > processors + BUSY:
        doubts.append(
            f"Other programs kept {busy:.1f} of {processors} processors busy during the measurement: "
            "measure again on a quiet machine."
        )
    return doubts
