"""What every method that leaves the base alone does first."""

from __future__ import annotations

from explora.core.model.gpt2 import GPT2


def freeze(model: GPT2) -> None:
    """Stop gradients everywhere but in the head that the task itself added."""
    model.requires_grad_(False)
    if model.score is not None:
        model.score.requires_grad_(True)
