"""The optimizers and the learning-rate schedule.

The method chooses the parameters with weight decay: the matrices of the base, but not adapters, heads,
biases and norms. Muon (Jordan et al. 2024), if chosen, updates the matrices of the blocks. Its updates have
the scale of AdamW's.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from explora.core.config.concerns import OptimizerConfig
from explora.core.config.method import Method
from explora.core.model.gpt2 import GPT2
from explora.core.training.adamw import AdamW, Optimizer
from explora.errors import UsageError


def make_optimizers(model: GPT2, method: Method, config: OptimizerConfig) -> list[Optimizer]:
    """Return optimizers that together hold each parameter that requires a gradient exactly once."""
    trained = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    decayed = {name for name, value in trained if method.decays(name, value.dim())}
    matrices = [value for name, value in trained if name in decayed]
    rest = [value for name, value in trained if name not in decayed]
    if config.optimizer == "adamw":
        return [make_adamw(matrices, rest, config)]
    in_blocks = [value for name, value in trained if name in decayed and name.startswith("h.")]
    if not in_blocks:
        raise UsageError("muon updates the matrices of the blocks, and this method trains none", "use adamw")
    muon = torch.optim.Muon(
        in_blocks,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        momentum=0.95,
        adjust_lr_fn="match_rms_adamw",
    )
    chosen = {id(value) for value in in_blocks}
    return [muon, make_adamw([value for value in matrices if id(value) not in chosen], rest, config)]


def make_adamw(decayed: list[nn.Parameter], rest: list[nn.Parameter], config: OptimizerConfig) -> AdamW:
    """Return AdamW with the configured weight decay on `decayed` and none on `rest`."""
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return AdamW(
        [group for group in groups if group["params"]],
        learning_rate=config.learning_rate,
        betas=(config.beta1, config.beta2),
    )


def schedule_factor(config: OptimizerConfig, total_steps: int) -> Callable[[int], float]:
    """Return the learning-rate factor as a function of the step, from 0: linear warm-up, then the decay."""
    warmup = math.ceil(config.warmup * total_steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = (step - warmup) / max(1, total_steps - warmup)
        if config.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        return 1.0 if config.schedule == "constant" else 1.0 - done

    return factor
