"""What a GPU needs of a step: no waiting, deterministic kernels, and the predicted memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from explora.core.bench.cell_process import ClockedTraining, open_cell
from explora.core.bench.measurements import Cell
from explora.core.config.precedence import resolve
from explora.core.estimate.memory import predict
from explora.core.runs.assemble import assemble_for_training
from explora.core.training.loop import Training
from tests.gpu.conftest import Prepare
from tests.tiny_models import ALLOWED, PAIRS

Record = Callable[[str, object], None]  # into right.jsonl
NOWHERE = Path("no-such-folder")
PUBLISHED_ERROR = 0.1  # of the prediction of memory


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def open_training(prepare: Prepare, task: str, **options: Any) -> Training:
    run = prepare(task, **options)
    session, train, _ = assemble_for_training(run)
    return Training(session.model, session.task, run, train.examples, (), NOWHERE)


def queue_step(training: Training) -> None:
    """Do all of a step but read its figures."""
    training.model.train()
    training.accumulate(training.collate([3, 1, 2], epoch=0), 3)
    training.clip()
    training.update(1.0)


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
@pytest.mark.parametrize(("task", "method"), PAIRS)
def test_nothing_in_a_step_waits_for_the_gpu(
    prepare: Prepare, gpu: torch.device, task: str, method: str, amp: str
) -> None:
    training = open_training(prepare, task, method=method, amp=amp, dropout=0.1)
    queue_step(training)  # kernels are loaded and memory is pinned in the first
    with waiting_is_an_error():
        queue_step(training)


def test_the_debug_mode_sees_a_look_at_the_loss(prepare: Prepare, gpu: torch.device) -> None:
    training = open_training(prepare, "text")
    queue_step(training)
    with waiting_is_an_error(), pytest.raises(RuntimeError, match="synchroniz"):
        float(training.accumulate(training.collate([1, 2], epoch=0), 2)[0])


@pytest.mark.parametrize(("task", "method"), PAIRS)
def test_every_kernel_of_a_step_is_deterministic(
    prepare: Prepare, gpu: torch.device, task: str, method: str
) -> None:
    training = open_training(prepare, task, method=method, amp="bf16", dropout=0.1)
    torch.use_deterministic_algorithms(True)  # an error, where training only warns
    try:
        queue_step(training)
    finally:
        torch.use_deterministic_algorithms(True, warn_only=True)


@pytest.mark.parametrize("amp", ["off", "bf16"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("task", "method"), [pair for pair in ALLOWED if pair[0] in ("paraphrase", "text")])
def test_the_predicted_memory_is_what_a_step_takes(
    gpu: torch.device, record_property: Record, task: str, method: str, checkpointing: bool, amp: str
) -> None:
    options = {"method": method, "amp": amp, "grad_checkpoint": checkpointing, "batch_size": 8}
    run, _ = resolve(task, {"model": "random:gpt2", "device": "cuda", **options})
    gc.collect()  # what earlier tests left
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    others = torch.cuda.memory_allocated()
    session, run, examples = open_cell(Cell(run=run, length=128, steps=2, seconds=0.0))
    clocked = ClockedTraining(session, run, examples)
    torch.cuda.reset_peak_memory_stats()
    clocked.step(), clocked.step()
    measured = torch.cuda.max_memory_allocated() - others
    told = predict(run, session.model.shape, 128, evaluates=False).peak
    record_property("predicted", told)
    record_property("measured", measured)
    assert told == pytest.approx(measured, rel=PUBLISHED_ERROR)
