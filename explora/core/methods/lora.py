"""LoRA (Hu et al. 2021): low-rank adapters beside frozen weights, W + (alpha / r) B A; see `lora_layers`."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from explora.core.config import values
from explora.core.config.method import Product, Tensors
from explora.core.config.registry import TARGETS, Shape
from explora.core.config.setting import FRACTION, POSITIVE, at_least, setting
from explora.core.config.values import Blocks
from explora.core.estimate.parameters import FLOAT32_BYTES, block_modules
from explora.core.methods.peft_format import blocks_of, by_module, refuse_unreadable, targets_of
from explora.core.methods.targets import (
    FUSED,
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

# Ways to initialise adapters that leave the base as it is.
INITIALISATIONS = (True, False, "gaussian", "orthogonal", "eva")
# Fields of PEFT's LoraConfig that are read here, or change nothing that an adapter computes.
READ = {
    *("r", "lora_alpha", "use_rslora", "lora_dropout", "rank_pattern", "alpha_pattern"),
    *("megatron_core", "qalora_group_size", "runtime_config", "eva_config"),
}


@dataclass(frozen=True, kw_only=True)
class LoRA(TargetedMethod):
    """Train low-rank adapters. `rank_pattern` and `alpha_pattern` overrule rank and alpha by module.

    Their keys are modules of every block, `mlp.c_fc`, or of one, `h.3.mlp.c_fc`; the latter wins.
    """

    name = "lora"
    summary = "low-rank adapters beside frozen weights (Hu et al. 2021)"
    learning_rate = 1e-3
    untrained = "every lora_B is zero"
    task_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paraphrase": {"targets": ("key", "value"), "learning_rate": 4e-4},
        "sentiment": ON_ALL,
        "sonnet": ON_ALL,
        "text": ON_ALL,
    }

    rank: int = setting(8, "Rank of the low-rank update.", metavar="R", range=at_least(1))
    alpha: float | None = setting(
        None,
        "Scale of the update times the rank.",
        metavar="ALPHA",
        default="2 x rank, a scale of 2",
        range=POSITIVE,
    )
    lora_dropout: float = setting(0.0, "Dropout on the adapters' input.", metavar="P", range=FRACTION)
    targets: tuple[str, ...] = targets_setting(("key", "value"))
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
        "Alphas of some modules, as in --rank-pattern.",
        metavar="MODULE=ALPHA,...",
        default="none",
        parse=values.parse_numbers_by_module,
    )

    @property
    def scale(self) -> float:
        """The factor alpha / rank in front of B A (Hu et al. 2021, section 4.1), without patterns."""
        return self._alpha / self.rank

    @property
    def _alpha(self) -> float:
        return 2 * self.rank if self.alpha is None else self.alpha

    def rank_of(self, layer: int | None, module: str) -> int:
        """Return the rank on a module of a block; `layer` None: of the blocks that no pattern names."""
        return _by_module(self.rank_pattern, layer, module, self.rank)

    def scale_of(self, layer: int | None, module: str) -> float:
        """Return the factor in front of B A on a module of a block."""
        rank = self.rank_of(layer, module)
        default = 2.0 * rank if self.alpha is None else self.alpha
        return _by_module(self.alpha_pattern, layer, module, default) / rank

    @property
    def label(self) -> str:
        """`lora r=8`."""
        return f"{self.name} r={self.rank}"

    @property
    def description(self) -> str:
        """`lora r=8 (scale 2) on key, value`."""
        patterns = " with patterns" if self.rank_pattern or self.alpha_pattern else ""
        return f"{self.label} (scale {self.scale:g}){patterns} {self.place}"

    def validate(self) -> None:
        """Raise UsageError for targets as they cannot be, and for patterns of modules without adapters."""
        super().validate()
        for option, pattern in (("rank-pattern", self.rank_pattern), ("alpha-pattern", self.alpha_pattern)):
            for key, value in pattern.items():
                module = re.sub(r"^h\.\d+\.", "", key)
                if module not in self.modules():
                    hint = f"modules with adapters: {', '.join(self.modules())}"
                    raise UsageError(f"{option}: no adapter on {key!r}{did_you_mean(module, MODULES)}", hint)
                if not 0 < value < float("inf"):
                    raise UsageError(f"{option}: {key} must be positive, not {value!r}")

    def check_fit(self, shape: Shape) -> None:
        """Raise UsageError for blocks that the base lacks, and for more rank than a matrix has."""
        super().check_fit(shape)
        largest = max([self.rank, *self.rank_pattern.values()])
        if largest > shape.n_embd:
            raise UsageError(
                f"rank {largest} is more than the matrices of this base have",
                f"--lora takes ranks up to the width, {shape.n_embd}; 4 to 16 are usual",
            )

    def trained_shapes(self, shape: Shape) -> Tensors:
        """Return the shapes of A and B side by side, (r, in + out), named by module and target."""
        tensors: Tensors = {}
        for target in self.targets:
            module, part = TARGETS[target]
            fan_in, fan_out = block_modules(shape.n_embd)[module]
            columns = span(fan_out, None if part is None else (part,))
            for layer in self.blocks(shape):
                tensors[f"h.{layer}.{module}.{target}"] = (self.rank_of(layer, module), fan_in + columns)
        return tensors

    def file_shapes(self, shape: Shape) -> Tensors:
        """Return the shapes of PEFT's A and B; adapters on parts of c_attn are stored as one."""
        tensors: Tensors = {}
        for layer, module, parts in self.sites(shape):
            fan_in, fan_out = block_modules(shape.n_embd)[module]
            rank = len(parts or (0,)) * self.rank_of(layer, module)
            tensors[f"h.{layer}.{module}.lora_A.weight"] = (rank, fan_in)
            tensors[f"h.{layer}.{module}.lora_B.weight"] = (fan_out, rank)
        return tensors

    def kept_bytes(self, product: Product) -> dict[str, int]:
        """Return the input, x A^T, and casts of A and B; with dropout also the input as dropout leaves it."""
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
        """With dropout the adapters read another tensor than the norms' outputs."""
        return not self.lora_dropout

    def apply(self, model: GPT2) -> None:
        """Freeze the model, then put adapters beside the chosen modules of the chosen blocks."""
        from explora.core.methods.lora_layers import add_adapters

        add_adapters(model, self)

    def merge(self, model: GPT2) -> None:
        """Replace every adapted layer by the plain one that computes the same."""
        from explora.core.methods.lora_layers import merge_adapters

        merge_adapters(model)

    def to_file(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return PEFT's A and B; adapters on parts of c_attn become an exactly equal one of joint rank."""
        from explora.core.methods.lora_layers import to_peft

        return to_peft(trained, self.modules())

    def from_file(self, stored: Mapping[str, Tensor], shapes: Tensors) -> dict[str, Tensor]:
        """Return A and B of each part; the inverse of `to_file`."""
        from explora.core.methods.lora_layers import from_peft

        return from_peft(stored, shapes, self.modules())

    def is_untrained(self, trained: Mapping[str, Tensor]) -> bool:
        """Return whether every B is zero."""
        b = [value for name, value in trained.items() if name.endswith("lora_B")]
        return bool(b) and not any(bool(value.any()) for value in b)

    def peft_config(self) -> dict[str, Any]:
        """Return PEFT's LoraConfig for what `to_file` gives; only fields that old versions of peft know."""
        widths = {module: len(parts or (0,)) for module, parts in self.modules().items()}
        common = widths[FUSED] if list(widths) == [FUSED] else 1
        rank, alpha = common * self.rank, common * self._alpha

        def file_rank(layer: int | None, module: str) -> int:
            return widths[module] * self.rank_of(layer, module)

        def file_alpha(layer: int | None, module: str) -> float:
            return self.scale_of(layer, module) * file_rank(layer, module)

        return {
            "peft_type": "LORA",
            "r": rank,
            "lora_alpha": alpha,
            "rank_pattern": self._peft_pattern(file_rank, rank),
            "alpha_pattern": self._peft_pattern(file_alpha, alpha),
            "lora_dropout": self.lora_dropout,
            "target_modules": list(widths),
            "layers_to_transform": list(self.layers) if self.layers else None,
            "layers_pattern": "h" if self.layers else None,
            "fan_in_fan_out": True,
            "bias": "none",
            "init_lora_weights": True,
        }

    def _peft_pattern(self, value_of: Callable[[int | None, str], float], common: float) -> dict[str, float]:
        """Return a pattern of PEFT, which takes the first key that fits: single blocks come first."""
        keys = dict.fromkeys(key for key in (*self.rank_pattern, *self.alpha_pattern) if key.startswith("h."))
        places = [(key, *key.removeprefix("h.").split(".", 1)) for key in keys]
        pattern = {key: value_of(int(layer), module) for key, layer, module in places}
        everywhere = {module: value_of(None, module) for module in self.modules()}
        return pattern | {module: value for module, value in everywhere.items() if value != common}

    def peer_config(self) -> dict[str, Any]:
        """Return PEFT's configuration with one adapter on each whole module, as its users write it."""
        return {
            "peft_type": "LORA",
            "r": self.rank,
            "lora_alpha": round(self._alpha),
            "lora_dropout": self.lora_dropout,
            "target_modules": sorted(self.modules()),
            "fan_in_fan_out": True,
        }

    @classmethod
    def from_peft(cls, config: Mapping[str, Any]) -> Self | None:
        """Return the LoRA of PEFT's configuration. Raises UsageError for what explora does not compute."""
        if config.get("peft_type") != "LORA":
            return None
        refuse_unreadable(config, READ, {"init_lora_weights": INITIALISATIONS})
        targets = targets_of(config.get("target_modules"))
        rank, alpha = int(config.get("r", 8)), float(config.get("lora_alpha", 8))
        modules = sorted({TARGETS[target][0] for target in targets})
        ranks = by_module(config, "rank_pattern", modules)
        alphas = by_module(config, "alpha_pattern", modules)
        found = cls(
            rank=rank,
            alpha=alpha,
            lora_dropout=float(config.get("lora_dropout", 0.0)),
            targets=targets,
            layers=blocks_of(config.get("layers_to_transform")),
            rank_pattern={key: int(value) for key, value in ranks.items()},
            alpha_pattern={key: float(value) for key, value in alphas.items()},
        )
        return found._divided_by_root() if config.get("use_rslora") else found

    def _divided_by_root(self) -> Self:
        """Return the same adapters where alpha is divided by the root of the rank (Kalajdzievski 2023)."""

        def root(key: str) -> float:
            ranks = self.rank_pattern
            return math.sqrt(ranks.get(key, ranks.get(re.sub(r"^h\.\d+\.", "", key), self.rank)))

        keys = dict.fromkeys([*self.rank_pattern, *self.alpha_pattern])
        alphas = {key: self.alpha_pattern.get(key, self._alpha) * root(key) for key in keys}
        return dataclasses.replace(self, alpha=self._alpha * math.sqrt(self.rank), alpha_pattern=alphas)


def _by_module(pattern: Mapping[str, N], layer: int | None, module: str, default: N) -> N:
    """Return the value for a module of a block; `layer` None: of blocks that no key names."""
    return pattern.get(f"h.{layer}.{module}", pattern.get(module, default))
