"""Top-k fine-tuning: the last blocks and the final norm are trained, and everything below is frozen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from explora.core.config.method import Method, Tensors
from explora.core.config.registry import Shape
from explora.core.config.setting import at_least, setting
from explora.core.estimate.parameters import base_tensors
from explora.core.methods.freezing import train_only
from explora.errors import UsageError

if TYPE_CHECKING:
    from explora.core.model.gpt2 import GPT2


@dataclass(frozen=True, kw_only=True)
class Top(Method):
    """Training of the last blocks and the final norm. The file holds their weights, to replace the base's."""

    name = "top"
    summary = "every weight of the last blocks and of the final norm"
    learning_rate = 1e-4  # the same as for full fine-tuning

    blocks: int = setting(
        2, "Number of blocks to train, counted from the last.", metavar="K", range=at_least(1)
    )

    @property
    def label(self) -> str:
        """Short name with the number of blocks: `top 2`."""
        return f"{self.name} {self.blocks}"

    @property
    def description(self) -> str:
        """Short name and the trained parts: `top 2 (the last 2 blocks and the final norm)`."""
        blocks = "the last block" if self.blocks == 1 else f"the last {self.blocks} blocks"
        return f"{self.label} ({blocks} and the final norm)"

    def check_fit(self, shape: Shape) -> None:
        """Raise UsageError for more blocks than the base has."""
        if self.blocks > shape.n_layer:
            raise UsageError(
                f"--blocks {self.blocks}: the base has {shape.n_layer} blocks",
                f"--blocks takes 1 to {shape.n_layer}",
            )

    def trained_shapes(self, shape: Shape) -> Tensors:
        """Return the weights of the last blocks and of the final norm, by the base's own names."""
        blocks = range(self.first_trained_block(shape), shape.n_layer)
        prefixes = ("ln_f.", *(f"h.{layer}." for layer in blocks))
        return {name: size for name, size in base_tensors(shape).items() if name.startswith(prefixes)}

    def file_shapes(self, shape: Shape) -> Tensors:
        """Return the shapes of the trained weights."""
        return self.trained_shapes(shape)

    def first_trained_block(self, shape: Shape) -> int:
        """Return the lowest trained block. Raises UsageError for more blocks than the base has."""
        self.check_fit(shape)
        return shape.n_layer - self.blocks

    def decays(self, name: str, dimensions: int) -> bool:
        """Return True for matrices; biases, norms and the task's head have no weight decay."""
        return dimensions == 2 and not name.startswith("score")

    def apply(self, model: GPT2) -> None:
        """Freeze everything except the last blocks and the final norm."""
        train_only(model, self.trained_shapes(model.shape))

    def merge(self, model: GPT2) -> None:
        """Do nothing: the trained weights are already the base's own."""
