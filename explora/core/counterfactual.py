"""What full fine-tuning would take here, predicted while an adapter trains.

Its step is the step that is measured and what it would do besides: the gradients of all weights, weights
that change and cannot be packed, the optimizer on all of them. Those are timed on one matrix and scaled.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from statistics import mean

import torch
import torch.nn.functional as F
from torch import nn

from explora.core.config import MethodConfig, OptimizerConfig
from explora.core.counting import base_tensors
from explora.core.measure import peak_memory_bytes
from explora.core.memory import predict
from explora.core.model import GPT2, Conv1D
from explora.core.optimizing import make_adamw
from explora.core.registry import TASKS
from explora.core.training import StepDone, Training

AFTER_STEPS = 20  # by then a step is as fast as it will be
SLOW_STEPS = 3  # of them: kernels are loaded, and the longest batch comes first
REPEATS = 10
LARGEST_SAMPLE = 1 << 22  # numbers on which the optimizer is timed
SHARE_OF_MODEL = 8  # that a sample is at most, so that it takes no memory worth mentioning
MATRICES = 3  # of (C, 4 C) have as many numbers as the four of a block


@dataclass(frozen=True, kw_only=True)
class Counterfactual:
    """What the steps of a run take here, and what those of full fine-tuning would.

    Seconds are those of all steps, without evaluations; memory is the peak, in bytes. The figures of this
    run are measured and carried on, the others are predicted.
    """

    seconds: float
    peak_memory_bytes: int
    full_seconds: float
    full_peak_memory_bytes: int


def imagine_full(training: Training, done: Sequence[StepDone]) -> Counterfactual:
    """Predict full fine-tuning from the first steps of a run, of which the first few are still slow."""
    run, shape = training.run, training.model.shape
    measured = done[SLOW_STEPS:]
    seconds = mean(step.seconds for step in measured)
    tokens = round(mean(step.tokens for step in measured))
    full = dataclasses.replace(run, method=MethodConfig(method="full"))
    longest = max(training.lengths)
    peak = peak_memory_bytes()
    more = predict(full, shape, longest).peak - predict(run, shape, longest).peak
    return Counterfactual(
        seconds=seconds * training.steps,
        peak_memory_bytes=peak,
        full_seconds=_full_step_seconds(training, seconds, tokens) * training.steps,
        full_peak_memory_bytes=peak + more,
    )


def _full_step_seconds(training: Training, seconds: float, tokens: int) -> float:
    """Return what a step of full fine-tuning takes on `tokens` tokens; one of this run takes `seconds`."""
    model, run = training.model, training.run
    shape, batches = model.shape, run.training.accumulate
    rows = max(1, tokens // batches)
    frozen_forward, frozen = _product_seconds(model, rows, trained=False)
    _, trained = _product_seconds(model, rows, trained=True)
    below = model.frozen_depth()
    now = below * frozen_forward + (shape.n_layer - below) * frozen
    products = batches * MATRICES * (shape.n_layer * trained - now)
    if TASKS[run.task].label is None:  # every token meets the head, which is (V, C) and would be trained
        products += batches * max(0.0, trained - frozen) * shape.vocab_size / (4 * shape.n_embd)
    numbers = sum(prod(size) for size in base_tensors(shape).values())
    embeddings = (shape.vocab_size + shape.n_positions) * shape.n_embd
    sample = min(LARGEST_SAMPLE, numbers // SHARE_OF_MODEL)
    updates = _optimizer_seconds(run.optimizer, sample, model.device) * numbers / sample
    lookups = batches * _lookup_seconds(shape.n_embd, sample, model.device) * embeddings / sample
    return seconds + products + updates + lookups


def _product_seconds(model: GPT2, rows: int, *, trained: bool) -> tuple[float, float]:
    """Return the seconds of a (C, 4 C) layer as `model` has them: forward, and both ways."""
    width, device, dtype = model.shape.n_embd, model.device, model.compute_dtype
    layer = Conv1D(width, 4 * width).to(device, torch.float32 if trained else dtype)
    nn.init.ones_(layer.weight)  # a draw would change what the run draws after it
    nn.init.zeros_(layer.bias)
    layer.requires_grad_(trained)
    if not trained and any(value.is_mkldnn for value in model.parameters()):
        layer.pack(passes_gradient=True)
    x = torch.ones(rows, width, dtype=dtype, device=device, requires_grad=True)
    up = torch.ones(rows, 4 * width, dtype=dtype, device=device)

    def both_ways() -> None:
        layer.zero_grad(set_to_none=True)
        layer(x).backward(up)

    return _seconds(lambda: layer(x), device), _seconds(both_ways, device)


def _optimizer_seconds(config: OptimizerConfig, sample: int, device: torch.device) -> float:
    """Return the seconds that clipping and AdamW take for `sample` numbers."""
    value = nn.Parameter(torch.zeros(sample, device=device))
    value.grad = torch.ones_like(value)
    optimizer = make_adamw([value], [], config)

    def update() -> None:
        torch.nn.utils.clip_grad_norm_([value], config.clip)
        optimizer.step()

    return _seconds(update, device)


def _lookup_seconds(width: int, sample: int, device: torch.device) -> float:
    """Return the seconds that the dense gradient of an embedding of `sample` numbers takes."""
    table = nn.Parameter(torch.zeros(sample // width, width, device=device))
    ids = torch.zeros(1, dtype=torch.long, device=device)
    return _seconds(lambda: F.embedding(ids, table).sum().backward(), device)  # type: ignore[no-untyped-call]


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the least time of `work`: what others take of the machine counts in the step already."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times)
