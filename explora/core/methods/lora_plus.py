"""LoRA+ (Hayou et al. 2024): LoRA whose B has a higher learning rate than its A."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from explora.core.config.method import ModuleNames
from explora.core.config.setting import at_least, setting
from explora.core.methods.lora import LoRA


@dataclass(frozen=True, kw_only=True)
class LoRAPlus(LoRA):
    """Training of LoRA's adapters, with a higher learning rate for B."""

    name = "lora-plus"
    summary = "LoRA whose B has a higher learning rate than its A (Hayou et al. 2024)"
    # At the default ratio, the geometric mean of the learning rates of A and B is LoRA's.
    learning_rate = LoRA.learning_rate / 4
    learning_rate_on_key_and_value = LoRA.learning_rate_on_key_and_value / 4
    task_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **LoRA.task_defaults,
        "sentiment": {**LoRA.task_defaults["sentiment"], "learning_rate": 1.5e-4},
    }

    lr_ratio: float = setting(
        16.0, "Learning rate of B, divided by that of A.", metavar="RATIO", range=at_least(1)
    )

    @property
    def description(self) -> str:
        """LoRA's description and the ratio: `lora-plus r=8 ... on key, value, learning rate of B x 16`."""
        return f"{super().description}, learning rate of B x {self.lr_ratio:g}"

    def rate_factor(self, name: str) -> float:
        """Return the ratio for B and, as PEFT does, for biases."""
        return self.lr_ratio if "lora_B" in name or name.endswith("bias") else 1.0

    @classmethod
    def from_peft(cls, config: Mapping[str, Any], modules: ModuleNames) -> Self | None:
        """Return None: an adapter does not record how it was trained, so it is read as LoRA's."""
        return None
