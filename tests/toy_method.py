"""A method that explora does not have, in one file, as someone who adds one would write it.

Norm tuning: the weight of the last layer norm is trained and, if wanted, its bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from explora.core.config.method import Method, Tensors
from explora.core.config.registry import Shape
from explora.core.config.setting import setting
from explora.core.methods.freezing import freeze

if TYPE_CHECKING:
    from torch import Tensor

    from explora.core.model.gpt2 import GPT2

NORM = "tests.toy_method:NormTuning"


@dataclass(frozen=True, kw_only=True)
class NormTuning(Method):
    """Train the last layer norm."""

    name = "norm-tuning"
    summary = "the last layer norm"
    learning_rate = 1e-2
    untrained = "the weight is the base's"

    norm_bias: bool = setting(True, "Train the bias of the norm too.")

    def trained_shapes(self, shape: Shape) -> Tensors:
        """Return the shapes of weight and bias."""
        names = ("weight", "bias") if self.norm_bias else ("weight",)
        return {f"ln_f.{name}": (shape.n_embd,) for name in names}

    def file_shapes(self, shape: Shape) -> Tensors:
        """Return what is trained."""
        return self.trained_shapes(shape)

    def first_trained_block(self, shape: Shape) -> int:
        """Return the number of blocks: all are frozen."""
        return shape.n_layer

    def apply(self, model: GPT2) -> None:
        """Freeze all but the norm, which is kept in fp32."""
        freeze(model)
        for name in self.trained_shapes(model.shape):
            value = model.get_parameter(name)
            value.data = value.data.float()
            value.requires_grad_(True)

    def merge(self, model: GPT2) -> None:
        """Do nothing: the norm itself moved."""

    def from_file(self, stored: Mapping[str, Tensor], shapes: Tensors) -> dict[str, Tensor]:
        """Return what was stored."""
        return {name: stored[name] for name in shapes}
