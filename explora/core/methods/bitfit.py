"""BitFit (Ben Zaken et al. 2022): only the biases are trained, including those of the layer norms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from explora.core.config.method import Method, Tensors
from explora.core.config.registry import Shape
from explora.core.estimate.parameters import base_tensors
from explora.core.methods.freezing import train_only

if TYPE_CHECKING:
    from explora.core.model.gpt2 import GPT2


@dataclass(frozen=True, kw_only=True)
class BitFit(Method):
    """Training of the base's biases; the file holds whole biases, which replace the base's."""

    name = "bitfit"
    summary = "only the biases (Ben Zaken et al. 2022)"
    learning_rate = 3e-3
    task_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {"sonnet": {"learning_rate": 9e-3}}

    def trained_shapes(self, shape: Shape) -> Tensors:
        """Return the shapes of all biases of the base."""
        return {name: size for name, size in base_tensors(shape).items() if name.endswith(".bias")}

    def file_shapes(self, shape: Shape) -> Tensors:
        """Return the shapes of the trained biases."""
        return self.trained_shapes(shape)

    def first_trained_block(self, shape: Shape) -> int:
        """Return 0: every block has biases."""
        return 0

    def apply(self, model: GPT2) -> None:
        """Freeze everything except the biases."""
        train_only(model, self.trained_shapes(model.shape))

    def merge(self, model: GPT2) -> None:
        """Do nothing: the trained biases are already the base's own."""
