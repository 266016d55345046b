"""DoRA (Liu et al. 2024): LoRA with a trained magnitude per column, m (W + s B A) / ||W + s B A||.

The layers are in `dora_layers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from explora.core.config.method import ModuleNames, Product, Tensors
from explora.core.config.registry import TARGETS, Shape
from explora.core.estimate.parameters import FLOAT32_BYTES, block_modules
from explora.core.methods.lora import ON_ALL, LoRA
from explora.core.methods.lora_peft import rank_stabilised
from explora.core.methods.portions import NUMBERS_AT_ONCE
from explora.core.methods.targets import FUSED, FUSED_PARTS, span

if TYPE_CHECKING:
    from torch import Tensor

    from explora.core.model.gpt2 import GPT2

MAGNITUDE = "lora_magnitude_vector"  # the name in PEFT's files and in the layer


@dataclass(frozen=True, kw_only=True)
class DoRA(LoRA):
    """Training of low-rank adapters and of the magnitude of each output column.

    Adapters on parts of c_attn have magnitudes for the columns of these parts; the other columns do not
    change.
    """

    name = "dora"
    summary = "LoRA with trained magnitudes of the columns (Liu et al. 2024)"
    peft_variant = "use_dora"
    task_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {**LoRA.task_defaults, "sentiment": ON_ALL}

    def trained_shapes(self, shape: Shape) -> Tensors:
        """Return LoRA's shapes, and one magnitude per column."""
        tensors = super().trained_shapes(shape)
        for target in self.targets:
            module, part = TARGETS[target]
            _, fan_out = block_modules(shape.n_embd)[module]
            size = (span(fan_out, None if part is None else (part,)),)
            tensors |= {f"h.{layer}.{module}.{target}-magnitude": size for layer in self.blocks(shape)}
        return tensors

    def file_shapes(self, shape: Shape) -> Tensors:
        """Return LoRA's shapes, and one vector of magnitudes per module."""
        tensors = super().file_shapes(shape)
        for layer, module, parts in self.sites(shape):
            _, fan_out = block_modules(shape.n_embd)[module]
            tensors[f"h.{layer}.{module}.{MAGNITUDE}"] = (len(parts or (0,)) * span(fan_out, parts),)
        return tensors

    def kept_bytes(self, product: Product) -> dict[str, int]:
        """Return LoRA's bytes, the output unless another operation keeps it, and norms and gains in fp32."""
        kept = super().kept_bytes(product)
        if not kept:
            return {}
        parts, name = self.modules()[product.module], product.module
        columns = len(parts or (0,)) * span(product.fan_out, parts)
        output = product.rows * product.fan_out * product.number_bytes
        return kept | {
            f"{name}'s output": 0 if product.output_is_kept else output,
            f"{name}'s norms": 2 * columns * FLOAT32_BYTES,
        }

    def backward_bytes(self, product: Product) -> int:
        """Return the bytes of the gradient before rescaling, and of the portions that are summed in fp32."""
        if not self.kept_bytes(product):
            return 0
        columns = span(product.fan_out, self.modules()[product.module])
        summed = 2 * FLOAT32_BYTES * min(product.rows * columns, NUMBERS_AT_ONCE)  # a difference, a product
        output = product.rows * product.fan_out * product.number_bytes
        if product.module != FUSED:
            return output + summed
        # Attention's backward pass comes first. Plain attention's scores took more than this and are free by
        # now; the views of fused attention keep c_attn's output.
        return 2 * output + summed if product.output_is_kept else 0

    def apply(self, model: GPT2) -> None:
        """Freeze everything except the chosen biases, then add adapters with magnitudes to the modules."""
        from explora.core.methods.dora_layers import DoRALinear
        from explora.core.methods.lora_layers import add_adapters

        add_adapters(model, self, DoRALinear)

    def merged_weight(self, name: str, weight: Tensor, stored: Mapping[str, Tensor]) -> Tensor:
        """Return m V / ||V|| column by column, where V is LoRA's weight (Liu et al. 2024, equation 5)."""
        site, _, kind = name.rpartition(".")
        merged = super().merged_weight(name, weight, stored)
        if kind == "bias" or f"{site}.{MAGNITUDE}" not in stored:
            return merged
        parts = self.modules()[site.split(".", 2)[2]] or (0,)
        magnitudes = stored[f"{site}.{MAGNITUDE}"].double().view(len(parts), -1)
        for part, magnitude in zip(parts, magnitudes, strict=True):
            columns = merged[:, part * len(magnitude) : (part + 1) * len(magnitude)]
            columns *= magnitude / columns.square().sum(0).sqrt()
        return merged

    def to_file(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return PEFT's A, B and magnitudes; magnitudes of several parts of c_attn are concatenated."""
        lora = {name: value for name, value in trained.items() if not name.endswith(MAGNITUDE)}
        magnitudes = {name: value.flatten() for name, value in trained.items() if name not in lora}
        return super().to_file(lora) | magnitudes

    def from_file(self, stored: Mapping[str, Tensor], shapes: Tensors) -> dict[str, Tensor]:
        """Return A, B and magnitudes of each part: the inverse of `to_file`."""
        lora = {name: size for name, size in shapes.items() if not name.endswith(MAGNITUDE)}
        magnitudes = {name: stored[name].view(size) for name, size in shapes.items() if name not in lora}
        return super().from_file(stored, lora) | magnitudes

    def peft_config(self) -> dict[str, Any] | None:
        """Return PEFT's LoraConfig; None for adapters on some parts of c_attn only.

        PEFT has magnitudes for the whole module or for none of it.
        """
        parts = self.modules().get(FUSED)
        return None if parts is not None and len(parts) < FUSED_PARTS else super().peft_config()

    @classmethod
    def from_peft(cls, config: Mapping[str, Any], modules: ModuleNames) -> Self | None:
        """Return the DoRA that PEFT's configuration describes.

        rsLoRA's scale becomes the equivalent alpha. Raises UsageError for settings that explora does not
        compute.
        """
        found = super().from_peft(config, modules)
        return replace(found, **rank_stabilised(found)) if found and config.get("use_rslora") else found
