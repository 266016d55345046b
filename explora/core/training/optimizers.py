"""Optimizers and the learning-rate schedule.

The method chooses the parameters with weight decay: the matrices of the base, but not adapters, heads, biases
and norms. It may also multiply the learning rate of some parameters. Muon (Jordan et al. 2024), if chosen,
updates the matrices of the blocks, with updates of the same scale as AdamW's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from explora.core.config.concerns import OptimizerConfig
from explora.core.config.method import Method
from explora.core.model.gpt2 import GPT2
from explora.core.training.adamw import AdamW, Optimizer
from explora.errors import UsageError


def make_optimizers(model: GPT2, method: Method, config: OptimizerConfig) -> list[Optimizer]:
    """Return optimizers that together contain each trained parameter exactly once."""
    trained = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    if config.optimizer == "adamw":
        return [make_adamw(_groups(trained, method, config), config)]
    by_muon = {
        name: value for name, value in trained if name.startswith("h.") and method.decays(name, value.dim())
    }
    if not by_muon:
        raise UsageError(
            "muon needs a method that trains the matrices of the blocks", "use --optimizer adamw"
        )
    muon = torch.optim.Muon(
        [{"params": list(by_muon.values()), "rate_factor": 1.0}],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        momentum=0.95,
        adjust_lr_fn="match_rms_adamw",
    )
    rest = [(name, value) for name, value in trained if name not in by_muon]
    return [muon, make_adamw(_groups(rest, method, config), config)]


def _groups(
    trained: Sequence[tuple[str, nn.Parameter]], method: Method, config: OptimizerConfig
) -> list[dict[str, Any]]:
    """Group parameters by weight decay, those with decay first, and by the factor of the learning rate."""
    found: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, value in trained:
        key = (method.decays(name, value.dim()), method.rate_factor(name))
        found.setdefault(key, []).append(value)
    return [
        {
            "params": found[decays, factor],
            "weight_decay": config.weight_decay if decays else 0.0,
            "lr": config.learning_rate * factor,
            "rate_factor": factor,
        }
        for decays, factor in sorted(found, key=lambda key: not key[0])
    ]


def make_adamw(groups: Sequence[Mapping[str, Any]], config: OptimizerConfig) -> AdamW:
    """Return AdamW with the configured moments on groups of parameters; see `AdamW`."""
    return AdamW(groups, learning_rate=config.learning_rate, betas=(config.beta1, config.beta2))


def schedule_factor(config: OptimizerConfig, total_steps: int) -> Callable[[int], float]:
    """Return the learning-rate factor as a function of the step, from 0: linear warm-up, then decay."""
    warmup = math.ceil(config.warmup * total_steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = (step - warmup) / max(1, total_steps - warmup)
        if config.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        return 1.0 if config.schedule == "constant" else 1.0 - done

    return factor
