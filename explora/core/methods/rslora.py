"""rsLoRA (Kalajdzievski 2023): LoRA with the scale alpha / sqrt(r), at which high ranks learn as well."""

from __future__ import annotations

import math
from dataclasses import dataclass

from explora.core.methods.lora import LoRA


@dataclass(frozen=True, kw_only=True)
class RSLoRA(LoRA):
    """Train low-rank adapters whose scale falls with the root of the rank (theorem 3.2)."""

    name = "rslora"
    summary = "LoRA with the scale alpha / sqrt(rank) (Kalajdzievski 2023)"
    peft_variant = "use_rslora"

    @staticmethod
    def usual_alpha(rank: int) -> float:
        """Return the alpha of LoRA's scale of 2 at rank 8; it must not grow with the rank, as LoRA's does.

        Twice the rank would give a scale of 2 sqrt(r), which the theorem rules out.
        """
        return 2.0 * math.sqrt(8)

    @staticmethod
    def divisor(rank: int) -> float:
        """Return the root of the rank."""
        return math.sqrt(rank)
