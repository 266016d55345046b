"""A training step never makes the host wait for a GPU, until it reads its figures.

Tested on the meta device: it has no numbers, so any look at one is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from explora.core.model.gpt2 import GPT2
from explora.core.runs.assemble import assemble_for_training
from explora.core.tasks.contract import Batch
from explora.core.training.loop import Training
from tests.tiny_models import PAIRS, tiny_run

EMBEDDING = F.embedding


def dense_embedding(rows: Tensor, weight: Tensor, *_: object, **__: object) -> Tensor:
    """Look up rows without the sparse gradient, for which the meta device has no kernel."""
    return EMBEDDING(rows, weight)


def training_on_meta(
    base: Path, data: Path, task: str, method: str, monkeypatch: pytest.MonkeyPatch, **options: object
) -> Training:
    run = tiny_run(base, data, task, method=method, dropout=0.1, **options)
    monkeypatch.setattr(GPT2, "pack", lambda model, **_: None)  # packed weights exist on a CPU alone
    monkeypatch.setattr("explora.core.model.gpt2.F.embedding", dense_embedding)
    session, train, _ = assemble_for_training(run)
    model = session.model.to("meta")
    return Training(model, session.task, run, train.examples, (), Path("no-such-folder"))


def queue_step(training: Training) -> None:
    """Do all of a step but read its figures."""
    training.model.train()
    batches = training.collate([3, 1, 2], epoch=0)
    training.accumulate(batches, 3)
    training.clip()
    training.update(1.0)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("task", "method"), PAIRS)
def test_a_step_looks_at_no_number(
    tiny_base: Path,
    tiny_data: Path,
    task: str,
    method: str,
    checkpointing: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    training = training_on_meta(
        tiny_base, tiny_data, task, method, monkeypatch, grad_checkpoint=checkpointing
    )
    for _ in range(2):  # the optimizer makes its state in the first
        queue_step(training)
    assert training.trained
    assert all(value.device.type == "meta" for value in training.trained)


def by_a_boolean_index(batch: Batch, hidden: Tensor) -> tuple[Tensor, Tensor]:
    wanted = batch.targets >= 0
    return hidden[wanted], batch.targets[wanted]


def with_a_look_at_the_loss(training: Training) -> Callable[..., list[Tensor]]:
    accumulate = training.accumulate
    return lambda *given: [loss for loss in accumulate(*given) if float(loss) == float(loss)]


def test_a_boolean_index_is_found(tiny_base: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = training_on_meta(tiny_base, tiny_data, "text", "lora", monkeypatch)
    monkeypatch.setattr(Batch, "predicted", by_a_boolean_index)
    with pytest.raises((NotImplementedError, RuntimeError)):
        queue_step(training)


def test_a_look_at_the_loss_is_found(
    tiny_base: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = training_on_meta(tiny_base, tiny_data, "text", "lora", monkeypatch)
    monkeypatch.setattr(training, "accumulate", with_a_look_at_the_loss(training))
    with pytest.raises(RuntimeError, match="meta"):
        queue_step(training)


def test_on_a_cpu_the_same_step_trains(
    tiny_base: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run(tiny_base, tiny_data, "text", method="lora")
    session, train, _ = assemble_for_training(run)
    training = Training(session.model, session.task, run, train.examples, (), Path("no-such-folder"))
    before = [value.detach().clone() for value in training.trained]
    queue_step(training)
    queue_step(training)
    assert not any(torch.equal(value, old) for value, old in zip(training.trained, before, strict=True))
