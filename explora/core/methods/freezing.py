"""Freezing of a model, completely or except for some parameters: the first step of most methods."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from explora.core.model.gpt2 import GPT2


def freeze(model: GPT2) -> None:
    """Stop gradients for every parameter except the head that the task added."""
    model.requires_grad_(False)
    if model.score is not None:
        model.score.requires_grad_(True)


def train_only(model: GPT2, names: Iterable[str]) -> None:
    """Freeze a model except for the task's head and the named parameters, which become fp32."""
    freeze(model)
    for name in names:
        parameter = model.get_parameter(name)
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
