"""LoRA in PEFT's adapter_config.json: written with fields that old versions have, and read strictly."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from explora.core.config.method import ModuleNames
from explora.core.config.values import Blocks
from explora.core.methods.lora_biases import BIASES
from explora.core.methods.peft_format import (
    adapted_places,
    around,
    by_module,
    refuse_unreadable,
    values_of,
)
from explora.core.methods.targets import FUSED

if TYPE_CHECKING:
    from explora.core.methods.lora import LoRA

PEFT_TYPE = "LORA"
# Initialisations of adapters that leave the base unchanged.
INITIALISATIONS = (True, False, None, "gaussian", "orthogonal", "eva", "mica")
# Fields of PEFT's LoraConfig that are read here, or that do not change what an adapter computes.
READ = {
    *("r", "lora_alpha", "lora_dropout", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora"),
    *("megatron_core", "qalora_group_size", "runtime_config", "eva_config"),
}
VARIANTS = ("use_dora", "use_rslora")  # flags for variants of LoRA; both together are a DoRA


def variant_of(config: Mapping[str, Any]) -> str:
    """Return the flag for the variant of LoRA that a configuration describes; "" for LoRA itself."""
    return next((flag for flag in VARIANTS if config.get(flag)), "")


def config_of(method: LoRA) -> dict[str, Any]:
    """Return PEFT's configuration for the tensors of `to_file`, with parts of c_attn as one adapter."""
    widths = {module: len(parts or (0,)) for module, parts in method.modules().items()}
    common = widths[FUSED] if list(widths) == [FUSED] else 1
    rank, alpha = common * method.rank, _joint_alpha(method, method.common_alpha, method.rank, common)

    def file_rank(layer: int | None, module: str) -> int:
        return widths[module] * method.rank_of(layer, module)

    def file_alpha(layer: int | None, module: str) -> float:
        alpha, rank = method.alpha_of(layer, module), method.rank_of(layer, module)
        return _joint_alpha(method, alpha, rank, widths[module])

    return {
        "peft_type": PEFT_TYPE,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": _pattern(method, file_rank, rank),
        "alpha_pattern": _pattern(method, file_alpha, alpha),
        "lora_dropout": method.lora_dropout,
        "target_modules": list(widths),
        "layers_to_transform": list(method.layers) if method.layers else None,
        "layers_pattern": "h" if method.layers else None,
        "fan_in_fan_out": True,
        "bias": method.bias.replace("-", "_"),
        "init_lora_weights": True,
        **({method.peft_variant: True} if method.peft_variant else {}),
    }


def _joint_alpha(method: LoRA, alpha: float, rank: int, width: int) -> float:
    """Return the alpha that gives the same scale at `width` times the rank, 8 and not 8.000000000000002."""
    if width == 1:
        return alpha
    return float(f"{alpha * (method.divisor(width * rank) / method.divisor(rank)):.15g}")


def _pattern(method: LoRA, value_of: Callable[[int | None, str], float], common: float) -> dict[str, float]:
    """Return a pattern for PEFT: one key per block that a setting names, and one key for all other blocks.

    PEFT uses the first key, a regular expression, that matches the end of a name, and it sorts the keys when
    it saves. So no key may match a module that another key is for.
    """
    pattern: dict[str, float] = {}
    for module in method.modules():
        blocks = _blocks_named(method, module)
        pattern |= {f"h.{layer}.{module}": value_of(layer, module) for layer in blocks}
        if (value := value_of(None, module)) != common:
            others = "".join(rf"(?<!h\.{layer}\.)" for layer in blocks)
            pattern[others + module] = value
    return pattern


def _blocks_named(method: LoRA, module: str) -> Blocks:
    """Return the blocks in which a pattern names this module."""
    places = map(split_key, (*method.rank_pattern, *method.alpha_pattern))
    return Blocks(layer for layer, name in places if layer is not None and name == module)


def split_key(key: str) -> tuple[int | None, str]:
    """Split a key: `h.3.mlp.c_fc` into (3, "mlp.c_fc"), `mlp.c_fc` into (None, "mlp.c_fc")."""
    match = re.fullmatch(r"h\.(\d+)\.(.+)", key)
    return (int(match[1]), match[2]) if match else (None, key)


def peer_config_of(method: LoRA) -> dict[str, Any]:
    """Return the configuration of a PEFT user, with one adapter on each whole module."""
    return {
        "peft_type": PEFT_TYPE,
        "r": method.rank,
        "lora_alpha": method.common_alpha,
        "lora_dropout": method.lora_dropout,
        "target_modules": sorted(method.modules()),
        "fan_in_fan_out": True,
        "bias": method.bias.replace("-", "_"),
        **({method.peft_variant: True} if method.peft_variant else {}),
    }


def settings_from(config: Mapping[str, Any], modules: ModuleNames) -> dict[str, Any]:
    """Return LoRA's settings from PEFT's configuration. Raises UsageError for what cannot be represented.

    If the settings cover a module that has no adapter in PEFT, its rank is 1.
    """
    biases = tuple(bias.replace("-", "_") for bias in BIASES)
    refuse_unreadable(config, READ, {"init_lora_weights": INITIALISATIONS, "bias": biases})
    rank, alpha = int(config.get("r", 8)), float(config.get("lora_alpha", 8))
    places = adapted_places(config, modules)
    blocks, adapted = {block for block, _ in places}, {module for _, module in places}
    ranks = {
        (block, module): int(value) if (block, module) in places else 1
        for (block, module), value in values_of(config, "rank_pattern", modules, rank).items()
        if block in blocks and module in adapted
    }
    alphas = values_of(config, "alpha_pattern", modules, alpha)
    return {
        "rank": rank,
        "alpha": alpha,
        "lora_dropout": float(config.get("lora_dropout", 0.0)),
        **around(places, modules),
        "rank_pattern": by_module(ranks, rank),
        "alpha_pattern": by_module({place: float(alphas[place]) for place in ranks}, alpha),
        "bias": config.get("bias", "none").replace("_", "-"),
    }


def rank_stabilised(method: LoRA) -> dict[str, Any]:
    """Return the alphas that give rsLoRA's scale, alpha / sqrt(rank) (Kalajdzievski 2023)."""

    def alpha_of(layer: int | None, module: str) -> float:
        return method.alpha_of(layer, module) * math.sqrt(method.rank_of(layer, module))

    keys = dict.fromkeys([*method.rank_pattern, *method.alpha_pattern])
    return {
        "alpha": method.common_alpha * math.sqrt(method.rank),
        "alpha_pattern": {key: alpha_of(*split_key(key)) for key in keys},
    }
