"""Last-linear: the model is frozen and only the task's linear head is trained."""

from __future__ import annotations

from explora.core.config.run_config import MethodConfig
from explora.core.methods.freezing import freeze
from explora.core.model.gpt2 import GPT2
from explora.errors import UsageError


def apply(model: GPT2, config: MethodConfig) -> None:
    """Freeze everything below the head."""
    if model.score is None:
        raise UsageError("last-linear needs a task with a linear head")
    freeze(model)


def merge(model: GPT2) -> None:
    """Nothing to merge: the head stands beside the base."""
