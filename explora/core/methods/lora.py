"""LoRA (Hu et al. 2021): low-rank adapters beside frozen weights, W + (alpha / r) B A; see `lora_layers`.

The variants `rslora`, `lora_plus` and `dora` extend it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from explora.core.config import values
from explora.core.config.method import ModuleNames, Product, Tensors
from explora.core.config.registry import TARGETS, Shape, task_row
from explora.core.config.setting import FRACTION, POSITIVE, at_least, setting
from explora.core.config.values import Blocks
from explora.core.estimate.parameters import FLOAT32_BYTES, block_modules
from explora.core.methods.lora_biases import BIASES, file_biases, trained_biases
from explora.core.methods.lora_peft import (
    PEFT_TYPE,
    config_of,
    peer_config_of,
    settings_from,
    split_key,
    variant_of,
)
from explora.core.methods.targets import (
    MODULES,
    TargetedMethod,
    layers_setting,
    span,
    targets_setting,
)
from explora.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from explora.core.model.gpt2 import GPT2

N = TypeVar("N", int, float)
ALL_TARGETS = ("query", "key", "value", "attn-out", "mlp-up", "mlp-down")
ON_ALL = {"targets": ALL_TARGETS}
KEY_AND_VALUE = ("key", "value")


@dataclass(frozen=True, kw_only=True)
class LoRA(TargetedMethod):
    """Training of low-rank adapters. `rank_pattern` and `alpha_pattern` override rank and alpha by module.

    Keys of a pattern name a module in every block, `mlp.c_fc`, or in one block, `h.3.mlp.c_fc`; the second
    form takes precedence. `peft_variant` is the flag in PEFT's LoraConfig that selects a variant of LoRA; it
    is empty for LoRA itself.
    """

    name = "lora"
    summary = "low-rank adapters beside frozen weights (Hu et al. 2021)"
    learning_rate = 4e-4
    learning_rate_on_key_and_value: ClassVar[float] = 7e-4  # alone; docs/guidelines.md has the scores
    untrained = "every lora_B is zero"
    task_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paraphrase": {"targets": KEY_AND_VALUE},
        "sentiment": {**ON_ALL, "learning_rate": 6e-4},
        "sonnet": ON_ALL,
        "text": ON_ALL,
    }
    peft_variant: ClassVar[str] = ""

    rank: int = setting(8, "Rank of the low-rank update.", metavar="R", range=at_least(1))
    alpha: float | None = setting(
        None,
        "Scale of the update times the rank.",
        metavar="ALPHA",
        default="2 x rank, a scale of 2; rslora: 5.66, a scale of 2 at rank 8",
        range=POSITIVE,
    )
    lora_dropout: float = setting(0.0, "Dropout on the adapters' input.", metavar="P", range=FRACTION)
    targets: tuple[str, ...] = targets_setting(KEY_AND_VALUE)
    layers: Blocks | None = layers_setting()
    rank_pattern: Mapping[str, int] = setting(
        {},
        "Ranks of some modules: mlp.c_fc=16,h.3.attn.c_attn=4.",
        metavar="MODULE=R,...",
        default="none",
        parse=values.parse_ranks_by_module,
    )
    alpha_pattern: Mapping[str, float] = setting(
        {},
        "Alphas of some modules, written as in --rank-pattern.",
        metavar="MODULE=ALPHA,...",
        default="none",
        parse=values.parse_numbers_by_module,
    )
    bias: str = setting(
        "none",
        "Biases of the base to train too: of the modules with adapters, or of every module and norm.",
        default="none",
        choices=BIASES,
    )

    def usual_learning_rate(self, task: str) -> float:
        """Return the default, higher on key and value alone, except for a task with a head of its own."""
        is_narrow = set(self.targets) <= set(KEY_AND_VALUE) and not task_row(task).own_head
        return self.learning_rate_on_key_and_value if is_narrow else super().usual_learning_rate(task)

    @staticmethod
    def usual_alpha(rank: int) -> float:
        """Return the default alpha: twice the rank, a scale of 2."""
        return 2.0 * rank

    @staticmethod
    def divisor(rank: int) -> float:
        """Return the divisor of alpha: the rank (Hu et al. 2021, section 4.1)."""
        return rank

    @property
    def common_alpha(self) -> float:
        """Alpha of the modules that no pattern names."""
        return self.usual_alpha(self.rank) if self.alpha is None else self.alpha

    @property
    def scale(self) -> float:
        """Factor of B A in the modules that no pattern names."""
        return self.common_alpha / self.divisor(self.rank)

    def rank_of(self, layer: int | None, module: str) -> int:
        """Return the rank for a module of a block; `layer` None: for the blocks that no pattern names."""
        return _by_module(self.rank_pattern, layer, module, self.rank)

    def alpha_of(self, layer: int | None, module: str) -> float:
        """Return alpha for a module of a block; `layer` as in `rank_of`."""
        default = self.usual_alpha(self.rank_of(layer, module)) if self.alpha is None else self.alpha
        return _by_module(self.alpha_pattern, layer, module, default)

    def scale_of(self, layer: int | None, module: str) -> float:
        """Return the factor of B A for a module of a block; `layer` as in `rank_of`."""
        return self.alpha_of(layer, module) / self.divisor(self.rank_of(layer, module))

    @property
    def label(self) -> str:
        """Short name with the rank: `lora r=8`."""
        return f"{self.name} r={self.rank}"

    @property
    def description(self) -> str:
        """Short name, scale, adapted modules and trained biases: `lora r=8 (scale 2) on key, value`."""
        patterns = " with patterns" if self.rank_pattern or self.alpha_pattern else ""
        biases = {"none": "", "all": ", and all biases"}.get(self.bias, ", and their biases")
        return f"{self.label} (scale {self.scale:.3g}){patterns} {self.place}{biases}"

    def validate(self) -> None:
        """Raise UsageError for invalid targets, and for patterns of modules without adapters."""
        super().validate()
        for option, pattern in (("rank-pattern", self.rank_pattern), ("alpha-pattern", self.alpha_pattern)):
            for key, value in pattern.items():
                _, module = split_key(key)
                if module not in self.modules():
                    raise UsageError(
                        f"--{option}: no adapter on {key!r}{_similar(module)}", self._hint(module)
                    )
                if not 0 < value < float("inf"):
                    raise UsageError(f"--{option}: {key} must be positive, not {value!r}")

    def check_use(self, shape: Shape) -> None:
        """Raise UsageError for a rank above the width, and for patterns of blocks without adapters."""
        for option, pattern in (("rank-pattern", self.rank_pattern), ("alpha-pattern", self.alpha_pattern)):
            for key in pattern:
                layer, _ = split_key(key)
                if layer is not None and layer not in self.blocks(shape):
                    raise UsageError(
                        f"--{option}: no adapter on {key!r}", f"blocks with adapters: {self.blocks(shape)}"
                    )
        largest = max([self.rank, *self.rank_pattern.values()])
        if largest > shape.n_embd:
            raise UsageError(
                f"rank {largest} is larger than the weight matrices of this base allow",
                f"--lora takes ranks up to the width, {shape.n_embd}; 4 to 16 are usual",
            )

    def trained_shapes(self, shape: Shape) -> Tensors:
        """Return the shapes of A and B side by side, (r, in + out), by module and target, and of biases."""
        tensors: Tensors = {}
        for target in self.targets:
            module, part = TARGETS[target]
            fan_in, fan_out = block_modules(shape.n_embd)[module]
            columns = span(fan_out, None if part is None else (part,))
            for layer in self.blocks(shape):
                tensors[f"h.{layer}.{module}.{target}"] = (self.rank_of(layer, module), fan_in + columns)
        return tensors | trained_biases(self, shape)

    def file_shapes(self, shape: Shape) -> Tensors:
        """Return the shapes of PEFT's A and B; adapters on parts of c_attn are stored as one."""
        tensors: Tensors = {}
        for layer, module, parts in self.sites(shape):
            fan_in, fan_out = block_modules(shape.n_embd)[module]
            rank = len(parts or (0,)) * self.rank_of(layer, module)
            tensors[f"h.{layer}.{module}.lora_A.weight"] = (rank, fan_in)
            tensors[f"h.{layer}.{module}.lora_B.weight"] = (fan_out, rank)
        return tensors | file_biases(self, shape)

    def first_trained_block(self, shape: Shape) -> int:
        """Return the lowest block with adapters, or 0 if all biases are trained."""
        return 0 if self.bias == "all" else super().first_trained_block(shape)

    def kept_bytes(self, product: Product) -> dict[str, int]:
        """Return the bytes of the input, x A^T and casts of A and B; with dropout also of its output."""
        parts = self.modules().get(product.module, ())
        if parts == () or not self.adapts(product.layer):
            return {}
        name, number = product.module, product.number_bytes
        rank = self.rank_of(product.layer, name) * len(parts or (0,))
        is_cast = number < FLOAT32_BYTES
        kept = {
            f"{name}'s input": product.input_bytes if product.input_is_kept else 0,
            f"{name}'s x A^T": product.rows * rank * number,
            f"{name}'s A and B": rank * (product.fan_in + span(product.fan_out, parts)) * number
            if is_cast
            else 0,
        }
        if self.lora_dropout:
            kept |= {f"{name}'s dropout": product.input_bytes, f"{name}'s input": product.input_bytes}
        return kept

    @property
    def reads_norms(self) -> bool:
        """Whether gradients need the norms' outputs: with dropout, adapters read another tensor."""
        return not self.lora_dropout

    def apply(self, model: GPT2) -> None:
        """Freeze everything except the chosen biases, then add adapters to the chosen modules."""
        from explora.core.methods.lora_layers import add_adapters

        add_adapters(model, self)

    def merge(self, model: GPT2) -> None:
        """Replace every adapted layer with a plain layer that computes the same."""
        from explora.core.methods.adapted_layers import merge_layers

        merge_layers(model)

    def merged_weight(self, name: str, weight: Tensor, stored: Mapping[str, Tensor]) -> Tensor:
        """Return W + scale (B A)^T (Hu et al. 2021, section 4.1), and biases as they are stored."""
        site, _, kind = name.rpartition(".")
        if kind == "bias":
            return stored.get(f"{site}.base_layer.bias", stored.get(name, weight))
        if f"{site}.lora_A.weight" not in stored:
            return weight
        a, b = (stored[f"{site}.lora_{matrix}.weight"].double() for matrix in "AB")
        return weight.double() + self.scale_of(*split_key(site)) * (b @ a).t()

    def to_file(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return PEFT's A and B; adapters on parts of c_attn become one exactly equal adapter."""
        from explora.core.methods.lora_layers import to_peft

        return to_peft(trained, self.modules())

    def from_file(self, stored: Mapping[str, Tensor], shapes: Tensors) -> dict[str, Tensor]:
        """Return A and B of each part: the inverse of `to_file`."""
        from explora.core.methods.lora_layers import from_peft

        return from_peft(stored, shapes, self.modules())

    def is_untrained(self, trained: Mapping[str, Tensor]) -> bool:
        """Return whether every B is zero and no biases are trained."""
        b = [value for name, value in trained.items() if name.endswith("lora_B")]
        return self.bias == "none" and bool(b) and not any(bool(value.any()) for value in b)

    def peft_config(self) -> dict[str, Any] | None:
        """Return PEFT's LoraConfig for the tensors of `to_file`."""
        return config_of(self)

    def peer_config(self) -> dict[str, Any]:
        """Return the LoraConfig of a PEFT user, with one adapter on each whole module."""
        return peer_config_of(self)

    @classmethod
    def from_peft(cls, config: Mapping[str, Any], modules: ModuleNames) -> Self | None:
        """Return the LoRA that PEFT's configuration describes.

        Raises UsageError for settings that explora does not compute.
        """
        if config.get("peft_type") != PEFT_TYPE or variant_of(config) != cls.peft_variant:
            return None
        return cls(**settings_from(config, modules))

    def _hint(self, module: str) -> str:
        """Return a hint: how to add an adapter to this module, or which modules have one."""
        names = [name for name, (path, part) in TARGETS.items() if path == module and part is None]
        if names:
            return f"give it one: --targets {','.join([*self.targets, *names])}"
        return f"modules with adapters: {', '.join(self.modules())}"


def _similar(module: str) -> str:
    return "" if module in MODULES else did_you_mean(module, MODULES)


def _by_module(pattern: Mapping[str, N], layer: int | None, module: str, default: N) -> N:
    """Return the value for a module of a block; `layer` None: for the blocks that no key names."""
    return pattern.get(f"h.{layer}.{module}", pattern.get(module, default))
