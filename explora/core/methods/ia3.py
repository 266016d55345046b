"""IA3 (Liu et al. 2022): trained vectors rescale keys, values and inner activations.

The layers are in `ia3_layers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from explora.core.config.method import ModuleNames, Product, Tensors
from explora.core.config.registry import TARGETS, Shape
from explora.core.config.values import Blocks
from explora.core.estimate.parameters import FLOAT32_BYTES, block_modules
from explora.core.methods.peft_format import (
    NotComputed,
    adapted_places,
    around,
    inner_places,
    refuse_unreadable,
)
from explora.core.methods.portions import NUMBERS_AT_ONCE
from explora.core.methods.targets import TargetedMethod, layers_setting, span, targets_setting

if TYPE_CHECKING:
    from torch import Tensor

    from explora.core.model.gpt2 import GPT2

INNER = "mlp.c_proj"  # as in the paper, its input is rescaled; for all other modules, the output is
READ = {"feedforward_modules", "init_ia3_weights"}  # in IA3Config: read, or without effect


@dataclass(frozen=True, kw_only=True)
class IA3(TargetedMethod):
    """Training of vectors that rescale a module's output, or the input of the second MLP product."""

    name = "ia3"
    summary = "vectors that rescale keys, values and inner activations (Liu et al. 2022)"
    learning_rate = 9e-3
    untrained = "every ia3_l is one"

    targets: tuple[str, ...] = targets_setting(("key", "value", "mlp-down"))
    layers: Blocks | None = layers_setting()

    @property
    def description(self) -> str:
        """Short name and adapted modules: `ia3 on key, value, mlp-down`."""
        return f"{self.label} {self.place}"

    def trained_shapes(self, shape: Shape) -> Tensors:
        """Return the shapes of the vectors by module and target."""
        tensors: Tensors = {}
        for target in self.targets:
            module, part = TARGETS[target]
            fan_in, fan_out = block_modules(shape.n_embd)[module]
            size = fan_in if module == INNER else span(fan_out, None if part is None else (part,))
            tensors |= {f"h.{layer}.{module}.{target}": (size,) for layer in self.blocks(shape)}
        return tensors

    def file_shapes(self, shape: Shape) -> Tensors:
        """Return the shapes of PEFT's vectors: (out, 1), or (1, in) if the input is rescaled."""
        tensors: Tensors = {}
        for layer, module, _ in self.sites(shape):
            fan_in, fan_out = block_modules(shape.n_embd)[module]
            tensors[f"h.{layer}.{module}.ia3_l"] = (1, fan_in) if module == INNER else (fan_out, 1)
        return tensors

    def kept_bytes(self, product: Product) -> dict[str, int]:
        """Return the bytes of the values that the vectors multiply: parts of the output, or the input."""
        parts = self.modules().get(product.module, ())
        if parts == () or not self.adapts(product.layer):
            return {}
        if product.module == INNER:
            return {f"{INNER}'s input": product.input_bytes if product.input_is_kept else 0}
        columns = len(parts or (0,)) * span(product.fan_out, parts)
        return {f"{product.module}'s output": product.rows * columns * product.number_bytes}

    def backward_bytes(self, product: Product) -> int:
        """Return the bytes of the recomputed input, and of the portions that are summed in fp32."""
        if product.module != INNER or not self.kept_bytes(product):
            return 0  # a vector on an output takes less than attention's backward pass took before
        portions = 1 if product.number_bytes == FLOAT32_BYTES else 2  # a product, and a cast
        numbers = min(product.rows * product.fan_in, NUMBERS_AT_ONCE)
        return product.input_bytes + portions * FLOAT32_BYTES * numbers

    @property
    def reads_norms(self) -> bool:
        """False: the gradients of the vectors need the outputs of the products, not their inputs."""
        return False

    def apply(self, model: GPT2) -> None:
        """Freeze the model, then add vectors of ones to the chosen modules of the chosen blocks."""
        from explora.core.methods.ia3_layers import add_vectors

        add_vectors(model, self)

    def merge(self, model: GPT2) -> None:
        """Multiply the weights, and the biases of rescaled outputs, by the vectors."""
        from explora.core.methods.adapted_layers import merge_layers

        merge_layers(model)

    def merged_weight(self, name: str, weight: Tensor, stored: Mapping[str, Tensor]) -> Tensor:
        """Return the weight, and the bias of a rescaled output, times l (Liu et al. 2022, section 3.3)."""
        site, _, kind = name.rpartition(".")
        vector = stored.get(f"{site}.ia3_l")
        if vector is None:
            return weight
        if not site.endswith(INNER):
            return weight.double() * vector.double().flatten()
        return weight if kind == "bias" else weight.double() * vector.double().t()

    def to_file(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return PEFT's vectors; vectors of parts of c_attn become one vector with ones elsewhere."""
        from explora.core.methods.ia3_layers import to_peft

        return to_peft(trained, self.modules())

    def from_file(self, stored: Mapping[str, Tensor], shapes: Tensors) -> dict[str, Tensor]:
        """Return the vectors of each part: the inverse of `to_file`."""
        from explora.core.methods.ia3_layers import from_peft

        return from_peft(stored, shapes, self.modules())

    def is_untrained(self, trained: Mapping[str, Tensor]) -> bool:
        """Return whether every vector is one."""
        vectors = [value for name, value in trained.items() if name.endswith("ia3_l")]
        return bool(vectors) and all(bool((value == 1).all()) for value in vectors)

    def peft_config(self) -> dict[str, Any]:
        """Return PEFT's IA3Config. It has no list of blocks, so each module is named with its block."""
        modules = list(self.modules())
        if self.layers is not None:
            modules = [f"h.{layer}.{module}" for layer in self.layers for module in modules]
        return {
            "peft_type": "IA3",
            "target_modules": modules,
            "feedforward_modules": [module for module in modules if module.endswith(INNER)],
            "fan_in_fan_out": True,
            "init_ia3_weights": True,
        }

    @classmethod
    def from_peft(cls, config: Mapping[str, Any], modules: ModuleNames) -> Self | None:
        """Return the IA3 that PEFT's configuration describes.

        Raises UsageError for settings that explora does not compute.
        """
        if config.get("peft_type") != "IA3":
            return None
        refuse_unreadable(config, READ, {})
        places = adapted_places(config, modules)
        inner = inner_places(config, modules) & {*places}
        if inner != {place for place in places if place[1] == INNER}:
            raise NotComputed(
                f"feedforward_modules {config.get('feedforward_modules')!r}: explora's IA3 rescales the "
                f"input of {INNER} and the output of every other module"
            )
        return cls(**around(places, modules))

    def peer_config(self) -> dict[str, Any]:
        """Return the configuration of a PEFT user, with one vector for each whole module."""
        modules = sorted(self.modules())
        return {
            "peft_type": "IA3",
            "target_modules": modules,
            "feedforward_modules": [module for module in modules if module == INNER],
            "fan_in_fan_out": True,
        }
