"""Last-linear: the model is frozen and only the task's linear head is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from explora.core.config.method import Method, Tensors
from explora.core.config.registry import Shape
from explora.core.methods.freezing import freeze
from explora.errors import UsageError

if TYPE_CHECKING:
    from explora.core.model.gpt2 import GPT2


@dataclass(frozen=True, kw_only=True)
class LastLinear(Method):
    """Training of a new linear head on the frozen model."""

    name = "last-linear"
    summary = "only a new linear head on the frozen model"
    learning_rate = 1e-3
    task_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "sentiment": {"learning_rate": 1e-2, "epochs": 10}
    }
    needs_head = True

    def trained_shapes(self, shape: Shape) -> Tensors:
        """Return no shapes: the head belongs to the task."""
        return {}

    def file_shapes(self, shape: Shape) -> Tensors:
        """Return no shapes: the file holds only the task's head."""
        return {}

    def first_trained_block(self, shape: Shape) -> int:
        """Return the number of blocks: no block is trained."""
        return shape.n_layer

    def apply(self, model: GPT2) -> None:
        """Freeze everything below the head. Raises UsageError for a model without a head."""
        if model.score is None:
            raise UsageError("last-linear needs a task with a linear head")
        freeze(model)

    def merge(self, model: GPT2) -> None:
        """Do nothing: the head is stored beside the base."""
