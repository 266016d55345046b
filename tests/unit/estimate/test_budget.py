"""The laws of what fits: it fits, it is the same step, and more memory never gives less."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from explora.core.config.precedence import resolve
from explora.core.config.registry import MODELS, TASKS
from explora.core.config.run_config import TrainRun
from explora.core.estimate.budget import find_shortage, fit, least
from explora.core.estimate.memory import predict

GPT2 = MODELS["gpt2"].shape
MIB = 1 << 20
BUDGETS = [size * MIB for size in range(400, 8000, 400)]
PAIRS = [(task, method) for task in TASKS for method in ("lora", "full")]


def resolved(task: str = "paraphrase", **options: Any) -> TrainRun:
    return resolve(task, {"amp": "bf16"} | options)[0]


@pytest.mark.parametrize("length", [40, 512])
@pytest.mark.parametrize(("task", "method"), PAIRS)
def test_what_is_chosen_fits_and_takes_the_same_step(task: str, method: str, length: int) -> None:
    run = resolved(task, method=method, batch_size=12, accumulate=2)
    before = 0
    for budget in BUDGETS:
        found = fit(run, GPT2, length, budget)
        if found is None:
            assert before == 0, "a larger budget must hold what a smaller one does"
            assert least(run, GPT2, length).needs > budget
            continue
        training = found.run.training
        assert found.memory.peak < found.needs <= budget
        assert found.memory == predict(found.run, GPT2, length)
        assert training.batch_size * training.accumulate == 24
        assert training.batch_size >= before
        before = training.batch_size
    assert before == 24


def test_only_the_portions_are_changed() -> None:
    run = resolved(batch_size=16)
    found = fit(run, GPT2, 256, 900 * MIB)
    assert found is not None
    assert (found.run.training.batch_size, found.run.runtime.grad_checkpoint) != (16, False)
    portions = {"batch_size": 16, "accumulate": 1}
    restored = dataclasses.replace(
        found.run,
        training=dataclasses.replace(found.run.training, **portions),
        runtime=dataclasses.replace(found.run.runtime, grad_checkpoint=False),
    )
    assert restored == run


def test_smaller_batches_come_before_checkpointing_while_they_are_efficient() -> None:
    run = resolved(batch_size=16)
    half = dataclasses.replace(run, training=dataclasses.replace(run.training, batch_size=8, accumulate=2))
    found = fit(run, GPT2, 256, round(1.1 * predict(half, GPT2, 256).peak))
    assert found is not None
    assert found.options == "--batch-size 8 --accumulate 2"
    short = resolved(batch_size=16)
    tight = fit(short, GPT2, 32, predict(short, GPT2, 32).peak)
    assert tight is not None
    assert tight.options == "--batch-size 16 --accumulate 1 --grad-checkpoint"


def test_checkpointing_that_was_asked_for_stays() -> None:
    found = fit(resolved(grad_checkpoint=True), GPT2, 64, 1 << 40)
    assert found is not None
    assert found.options == "--batch-size 16 --accumulate 1 --grad-checkpoint"


def test_the_least_is_what_the_smallest_budget_holds() -> None:
    run = resolved(method="full", batch_size=8)
    smallest = least(run, GPT2, 128).needs
    assert fit(run, GPT2, 128, smallest) is not None
    assert fit(run, GPT2, 128, smallest - 1) is None


def test_a_shortage_is_what_is_still_to_come_against_what_is_free() -> None:
    run = resolved(batch_size=16)
    told = predict(run, GPT2, 256)
    resident = told.runtime + told.weights
    enough = told.peak - resident
    facts = {"classes": None, "resident": resident}
    assert find_shortage(run, GPT2, 256, **facts, available=enough) is None
    found = find_shortage(run, GPT2, 256, **facts, available=enough - 1)
    assert found is not None
    assert (found.needed, found.limit) == (told.peak, told.peak - 1)
    assert found.choice is not None
    assert found.choice.needs <= found.limit


def test_rows_in_memory_are_part_of_what_is_needed() -> None:
    run = resolved(batch_size=16)
    told = predict(run, GPT2, 256)
    rows = 1000 * MIB
    found = find_shortage(
        run, GPT2, 256, classes=None, resident=told.runtime + told.weights + rows, available=0
    )
    assert found is not None
    assert found.needed == told.peak + rows
