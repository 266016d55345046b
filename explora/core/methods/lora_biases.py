"""Biases of the base that LoRA trains beside its adapters: the setting `bias`, as in PEFT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from explora.core.config.method import Tensors
from explora.core.config.registry import Shape
from explora.core.estimate.parameters import base_tensors

if TYPE_CHECKING:
    from explora.core.methods.lora import LoRA

BIASES = ("none", "lora-only", "all")


def trained_biases(method: LoRA, shape: Shape) -> Tensors:
    """Return the shapes of the trained biases by the base's names."""
    if method.bias == "none":
        return {}
    biases = {name: size for name, size in base_tensors(shape).items() if name.endswith(".bias")}
    if method.bias == "all":
        return biases
    return {name: biases[name] for name in _beside_adapters(method, shape)}


def file_biases(method: LoRA, shape: Shape) -> Tensors:
    """Return the shapes of the trained biases by their names in PEFT's files.

    PEFT names an adapted module's own parameters `base_layer`.
    """
    adapted = _beside_adapters(method, shape)
    return {
        name.replace(".bias", ".base_layer.bias") if name in adapted else name: size
        for name, size in trained_biases(method, shape).items()
    }


def _beside_adapters(method: LoRA, shape: Shape) -> list[str]:
    return [f"h.{layer}.{module}.bias" for layer, module, _ in method.sites(shape)]
