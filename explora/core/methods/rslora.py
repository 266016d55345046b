"""rsLoRA (Kalajdzievski 2023): LoRA with the scale alpha / sqrt(r), which lets high ranks learn as well."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from explora.core.methods.lora import ON_ALL, LoRA


@dataclass(frozen=True, kw_only=True)
class RSLoRA(LoRA):
    """Training of low-rank adapters whose scale falls with the square root of the rank (theorem 3.2)."""

    name = "rslora"
    summary = "LoRA with the scale alpha / sqrt(rank) (Kalajdzievski 2023)"
    peft_variant = "use_rslora"
    task_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {**LoRA.task_defaults, "sentiment": ON_ALL}

    @staticmethod
    def usual_alpha(rank: int) -> float:
        """Return the alpha that gives a scale of 2 at rank 8, whatever the rank.

        Twice the rank, LoRA's default, would give a scale of 2 sqrt(r), which the theorem rules out.
        """
        return 2.0 * math.sqrt(8)

    @staticmethod
    def divisor(rank: int) -> float:
        """Return the square root of the rank."""
        return math.sqrt(rank)
