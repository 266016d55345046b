"""Full fine-tuning: every weight is trained."""

from __future__ import annotations

from explora.core.config.run_config import MethodConfig
from explora.core.model.gpt2 import GPT2


def apply(model: GPT2, config: MethodConfig) -> None:
    """Let gradients reach every weight."""
    model.requires_grad_(True)


def merge(model: GPT2) -> None:
    """Nothing to merge: the weights themselves moved."""
