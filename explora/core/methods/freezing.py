"""Freeze a model: the first step of every method that leaves the base as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from explora.core.model.gpt2 import GPT2


def freeze(model: GPT2) -> None:
    """Stop gradients everywhere but in the head that the task added."""
    model.requires_grad_(False)
    if model.score is not None:
        model.score.requires_grad_(True)
