"""The losses of twenty optimizer steps: of explora's model, and of a model of transformers or peft."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explora.core.config.concerns import OptimizerConfig
from explora.core.config.method import Method
from explora.core.model.gpt2 import GPT2
from explora.core.training.adamw import Optimizer
from explora.core.training.optimizers import make_optimizers
from tests.tiny_adapters import EOS

STEPS = 20
BATCHES = torch.randint(EOS, (STEPS, 4, 24), generator=torch.Generator().manual_seed(3))
RATE, DECAY = 3e-3, 0.1
CLOSE = 1e-5  # relative, in fp32


def our_curve(model: GPT2, method: Method) -> list[float]:
    """The losses of explora's model, by explora's optimizers."""

    def loss(ids: Tensor) -> Tensor:
        return F.cross_entropy(model.logits(model(ids))[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

    model.train()
    return _curve(
        loss, make_optimizers(model, method, OptimizerConfig(learning_rate=RATE, weight_decay=DECAY))
    )


def their_curve(
    model: Any, trained: Sequence[nn.Parameter], decayed: Callable[[nn.Parameter], bool] = lambda _: False
) -> list[float]:
    """The losses of a causal model of transformers or peft, of which torch's AdamW steps `trained`."""
    model.requires_grad_(False)
    for value in trained:
        value.requires_grad_(True)
    groups = [
        {"params": [value for value in trained if decayed(value)], "weight_decay": DECAY},
        {"params": [value for value in trained if not decayed(value)], "weight_decay": 0.0},
    ]
    return their_curve_by(torch.optim.AdamW([group for group in groups if group["params"]], lr=RATE), model)


def their_curve_by(optimizer: Optimizer, model: Any) -> list[float]:
    """The same losses, where an optimizer is given."""
    model.eval()  # GPT2Config drops a tenth in training
    return _curve(lambda ids: model(input_ids=ids, labels=ids).loss, [optimizer])


def _curve(loss: Callable[[Tensor], Tensor], optimizers: Sequence[Optimizer]) -> list[float]:
    losses = []
    for ids in BATCHES:
        value = loss(ids)
        value.backward()  # type: ignore[no-untyped-call]
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(value.item())
    return losses
