"""Predict the cost of full fine-tuning on this machine while an adapter trains.

The prediction starts from the measured time of a step. The cost of trained blocks replaces that of the
adapted ones, and the gradients of embedding and head and the optimizer update of all weights are added. Each
part is timed on a sample that is too large for the processor's caches, and scaled up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from statistics import mean

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explora.core.config.concerns import OptimizerConfig
from explora.core.config.registry import FULL_METHOD, TASKS, method_class
from explora.core.estimate.memory import predict
from explora.core.estimate.parameters import base_tensors
from explora.core.machine.facts import peak_memory_bytes
from explora.core.model.gpt2 import GPT2, Features
from explora.core.training.events import StepDone
from explora.core.training.loop import Training
from explora.core.training.optimizers import make_adamw

AFTER_STEPS = 20  # by then the speed is steady
SLOW_STEPS = 3  # left out of the mean: they load kernels, and the longest batch comes first
REPEATS = 5
LARGEST_SAMPLE = 1 << 22  # weights; with gradients and moments 64 MiB, more than caches hold
SHARE_OF_MODEL = 8  # a sample is at most an eighth of the model, so that it needs little memory


@dataclass(frozen=True, kw_only=True)
class FullFineTuningCost:
    """The cost of a run, extrapolated from its first steps, and the predicted cost of full fine-tuning.

    Seconds: of all steps, without evaluations; memory: the peak, in bytes.
    """

    seconds: float
    peak_memory_bytes: int
    full_seconds: float
    full_peak_memory_bytes: int


def predict_full_fine_tuning(training: Training, done: Sequence[StepDone]) -> FullFineTuningCost:
    """Predict the cost of full fine-tuning from the first steps of a run."""
    run, shape = training.run, training.model.shape
    measured = done[SLOW_STEPS:]
    seconds = mean(step.seconds for step in measured)
    tokens = round(mean(step.tokens for step in measured))
    full = replace(run, method=method_class(FULL_METHOD)())
    longest = max(training.lengths)
    peak = peak_memory_bytes()
    more = predict(full, shape, longest).peak - predict(run, shape, longest).peak
    return FullFineTuningCost(
        seconds=seconds * training.steps,
        peak_memory_bytes=peak,
        full_seconds=_full_step_seconds(training, seconds, tokens) * training.steps,
        full_peak_memory_bytes=peak + more,
    )


def _full_step_seconds(training: Training, seconds: float, tokens: int) -> float:
    """Return the seconds of a full fine-tuning step on `tokens` tokens; one of this run takes `seconds`."""
    model, run = training.model, training.run
    shape, batches = model.shape, run.training.accumulate
    length = min(shape.n_positions, max(1, tokens // (batches * run.training.batch_size)))
    ids = torch.zeros(run.training.batch_size, length, dtype=torch.long, device=model.device)
    numbers = sum(prod(size) for size in base_tensors(shape).values())
    sample = min(LARGEST_SAMPLE, numbers // SHARE_OF_MODEL)
    more = shape.n_layer * _trained_block_seconds(training, ids, sample)
    more -= _pass_seconds(model, _read_by(training, ids))
    if not TASKS[run.task].one_position:  # the head, (V, C), reads every token and would be trained
        more += _gradient_seconds(ids.numel(), model) * shape.vocab_size / (4 * shape.n_embd)
    embeddings = (shape.vocab_size + shape.n_positions) * shape.n_embd
    more += _lookup_seconds(shape.n_embd, sample, model.device) * embeddings / sample
    return (
        seconds + batches * more + _optimizer_seconds(run.optimizer, sample, model.device) * numbers / sample
    )


def _trained_block_seconds(training: Training, ids: Tensor, numbers: int) -> float:
    """Return the seconds of one trained block, timed on blocks with about `numbers` parameters in total."""
    model = training.model
    block = sum(prod(size) for name, size in base_tensors(model.shape).items() if name.startswith("h.0."))
    shape = replace(model.shape, n_layer=max(1, numbers // block), vocab_size=1)
    with model.device:
        blocks = GPT2(shape, training.run.training.dropout)
    for parameter in blocks.parameters():
        nn.init.zeros_(parameter)  # random weights would change the random numbers of the run
    blocks.compute_dtype, blocks.grad_checkpoint = model.compute_dtype, model.grad_checkpoint
    blocks.limit_plain_attention(training.run.runtime.plain_attention)
    return _pass_seconds(blocks, ids) / shape.n_layer


def _read_by(training: Training, ids: Tensor) -> Tensor | Features:
    """Return the input of a step of this run: the ids, or cached features of the same shape."""
    cache = training.feature_cache
    if cache is None or not cache.fits:
        return ids
    model = training.model
    states = torch.zeros(*ids.shape, model.shape.n_embd, dtype=model.compute_dtype, device=model.device)
    return Features(states, cache.depth)


def _pass_seconds(model: GPT2, inputs: Tensor | Features) -> float:
    """Return the seconds of the forward and backward pass of a batch, without head and loss."""

    def both_ways() -> None:
        model(inputs).sum().backward()
        model.zero_grad(set_to_none=True)

    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        return _seconds(both_ways, model.device)


def _gradient_seconds(rows: int, model: GPT2) -> float:
    """Return the seconds of the gradient of a (4 C, C) part of the head."""
    width, dtype, device = model.shape.n_embd, model.compute_dtype, model.device
    hidden = torch.ones(rows, width, dtype=dtype, device=device)
    logits = torch.ones(rows, 4 * width, dtype=dtype, device=device)
    return _seconds(lambda: logits.t() @ hidden, device)


def _optimizer_seconds(config: OptimizerConfig, sample: int, device: torch.device) -> float:
    """Return the seconds that clipping and AdamW take for `sample` parameters."""
    value = nn.Parameter(torch.zeros(sample, device=device))
    value.grad = torch.ones_like(value)
    optimizer = make_adamw([{"params": [value], "weight_decay": config.weight_decay}], config)

    def update() -> None:
        torch.nn.utils.clip_grad_norm_([value], config.clip)
        optimizer.step()

    return _seconds(update, device)


def _lookup_seconds(width: int, sample: int, device: torch.device) -> float:
    """Return the seconds that the dense gradient of an embedding of `sample` parameters takes."""
    table = nn.Parameter(torch.zeros(sample // width, width, device=device))
    ids = torch.zeros(1, dtype=torch.long, device=device)
    return _seconds(lambda: F.embedding(ids, table).sum().backward(), device)  # type: ignore[no-untyped-call]


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the shortest of several times of `work`: the measured step already includes other load."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times)
