"""MiSS, matrix shard sharing (Kang and Yin 2024): one trained matrix for all shards of a weight.

The layers are in `miss_layers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from explora.core.config.method import Product, Tensors
from explora.core.config.registry import TARGETS, Shape
from explora.core.config.setting import at_least, setting
from explora.core.config.values import Blocks
from explora.core.estimate.parameters import FLOAT32_BYTES, block_modules
from explora.core.methods.targets import TargetedMethod, layers_setting, span, targets_setting
from explora.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from explora.core.model.gpt2 import GPT2

ON_ALL = {"targets": ("query", "key", "value", "attn-out", "mlp-up", "mlp-down")}


@dataclass(frozen=True, kw_only=True)
class MiSS(TargetedMethod):
    """Training of one (r, out) matrix D beside each weight, shared by all shards of r inputs.

    It equals a LoRA whose A is the tiled identity and whose B is D^T, and is stored as one.
    """

    name = "miss"
    summary = "one small matrix beside each weight, shared by its shards (Kang and Yin 2024)"
    learning_rate = 4e-4  # as LoRA
    task_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "sentiment": ON_ALL,
        "sonnet": ON_ALL,
        "text": ON_ALL,
    }

    rank: int = setting(
        16, "Number of inputs in a shard, and rank of the update.", metavar="R", range=at_least(1)
    )
    targets: tuple[str, ...] = targets_setting(("key", "value"))
    layers: Blocks | None = layers_setting()

    @property
    def label(self) -> str:
        """Short name with the rank: `miss r=16`."""
        return f"{self.name} r={self.rank}"

    @property
    def description(self) -> str:
        """Short name with the rank and the adapted modules: `miss r=16 on key, value`."""
        return f"{self.label} {self.place}"

    def check_use(self, shape: Shape) -> None:
        """Raise UsageError for shards that are larger than the base's width."""
        if self.rank > shape.n_embd:
            raise UsageError(
                f"rank {self.rank} is larger than the weight matrices of this base allow",
                f"--rank takes 1 to the width, {shape.n_embd}; 16 to 64 are usual",
            )

    def trained_shapes(self, shape: Shape) -> Tensors:
        """Return the shapes of D, (r, out), by module and target."""
        tensors: Tensors = {}
        for target in self.targets:
            module, part = TARGETS[target]
            _, fan_out = block_modules(shape.n_embd)[module]
            size = (self.rank, span(fan_out, None if part is None else (part,)))
            tensors |= {f"h.{layer}.{module}.{target}": size for layer in self.blocks(shape)}
        return tensors

    def file_shapes(self, shape: Shape) -> Tensors:
        """Return the shapes of A, (r, in), and B, (out, r), of the equal LoRA."""
        tensors: Tensors = {}
        for layer, module, _ in self.sites(shape):
            fan_in, fan_out = block_modules(shape.n_embd)[module]
            tensors[f"h.{layer}.{module}.lora_A.weight"] = (self.rank, fan_in)
            tensors[f"h.{layer}.{module}.lora_B.weight"] = (fan_out, self.rank)
        return tensors

    def kept_bytes(self, product: Product) -> dict[str, int]:
        """Return the bytes of the sums of shards, (N, r), and of the cast of D; the input is not kept."""
        parts = self.modules().get(product.module, ())
        if parts == () or not self.adapts(product.layer):
            return {}
        name, number = product.module, product.number_bytes
        columns = len(parts or (0,)) * span(product.fan_out, parts)
        return {
            f"{name}'s sums of shards": product.rows * self.rank * number,
            f"{name}'s D": self.rank * columns * number if number < FLOAT32_BYTES else 0,
        }

    @property
    def reads_norms(self) -> bool:
        """Whether gradients need the norms' outputs: no, only the sums of their shards."""
        return False

    def apply(self, model: GPT2) -> None:
        """Freeze the model, then add a D of zeros to the chosen modules of the chosen blocks."""
        from explora.core.methods.miss_layers import add_shards

        add_shards(model, self)

    def merge(self, model: GPT2) -> None:
        """Add D to every shard of the weights."""
        from explora.core.methods.adapted_layers import merge_layers

        merge_layers(model)

    def merged_weight(self, name: str, weight: Tensor, stored: Mapping[str, Tensor]) -> Tensor:
        """Return W with D = B^T added to each shard of its rows (Kang and Yin 2024)."""
        site, _, kind = name.rpartition(".")
        b = stored.get(f"{site}.lora_B.weight")
        if kind == "bias" or b is None:
            return weight
        return weight.double() + b.double().t()[[row % self.rank for row in range(len(weight))]]

    def to_file(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return A and B of the equal LoRA; B is zero for parts of c_attn that have no D."""
        from explora.core.methods.miss_layers import to_lora

        return to_lora(trained, self.modules())

    def from_file(self, stored: Mapping[str, Tensor], shapes: Tensors) -> dict[str, Tensor]:
        """Return D of each part from B; the caller compares A with the tiled identity."""
        from explora.core.methods.miss_layers import from_lora

        return from_lora(stored, shapes, self.modules())

    def peft_config(self) -> dict[str, Any]:
        """Return PEFT's LoraConfig of the equal LoRA: PEFT's own MiSS does not support GPT-2's layers."""
        return {
            "peft_type": "LORA",
            "r": self.rank,
            "lora_alpha": self.rank,
            "lora_dropout": 0.0,
            "target_modules": list(self.modules()),
            "layers_to_transform": list(self.layers) if self.layers else None,
            "layers_pattern": "h" if self.layers else None,
            "fan_in_fan_out": True,
            "bias": "none",
            "init_lora_weights": True,
        }
