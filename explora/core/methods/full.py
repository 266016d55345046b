"""Full fine-tuning: every weight is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from explora.core.config.method import Method, Tensors
from explora.core.config.registry import Shape
from explora.core.estimate.parameters import base_tensors

if TYPE_CHECKING:
    from explora.core.model.gpt2 import GPT2


@dataclass(frozen=True, kw_only=True)
class Full(Method):
    """Training of every weight; the result is a model folder."""

    name = "full"
    summary = "every weight is trained"
    learning_rate = 1e-4
    trains_base = True

    def trained_shapes(self, shape: Shape) -> Tensors:
        """Return the shapes of all weights of the base."""
        return base_tensors(shape)

    def file_shapes(self, shape: Shape) -> Tensors:
        """Return the shapes of all weights of the base."""
        return base_tensors(shape)

    def first_trained_block(self, shape: Shape) -> int:
        """Return 0: every block is trained."""
        return 0

    def decays(self, name: str, dimensions: int) -> bool:
        """Return True for matrices and embeddings; biases, norms and the task's head have no weight decay."""
        return dimensions == 2 and not name.startswith("score")

    def apply(self, model: GPT2) -> None:
        """Make every weight trainable."""
        model.requires_grad_(True)

    def merge(self, model: GPT2) -> None:
        """Do nothing: the trained weights are already the base's own."""

    def peer_config(self) -> dict[str, Any]:
        """Return an empty configuration: transformers trains the base without PEFT."""
        return {}
