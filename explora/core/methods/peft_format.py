"""Parts of PEFT's adapter_config.json that several methods share: fields, names of modules, patterns.

PEFT finds modules by name. This module follows its rules (peft 0.21: `check_target_module_exists` in
peft.tuners.tuners_utils, `get_pattern_key` in peft.utils.other). `modules` always means the modules of the
base that can have an adapter, by their full names in PEFT: `transformer.h.0.attn.c_attn`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from typing import Any, TypeVar

from explora.core.config.method import ModuleNames, Place
from explora.core.config.registry import TARGETS
from explora.core.config.values import Blocks
from explora.errors import UsageError

V = TypeVar("V")

# Fields of all methods that are read, or that do not change what an adapter computes.
READ = {
    *("peft_type", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("modules_to_save", "fan_in_fan_out", "task_type", "base_model_name_or_path", "revision"),
    *("auto_mapping", "peft_version", "inference_mode", "ensure_weight_tying"),
}
# Fields that are supported only with these values.
READABLE: dict[str, Sequence[Any]] = {"bias": ("none",)}
# The modules that PEFT adapts in a GPT-2 if target_modules is missing.
USUAL_MODULES = {"LORA": ["c_attn"], "IA3": ["c_attn", "mlp.c_proj"]}
ALL_LINEAR = "all-linear"
# Why explora does not support these fields; completes "explora does not read adapters with FIELD (...)".
REASONS = {
    "alora_invocation_tokens": "words in the prompt switch the adapter on",
    "arrow_config": "a router mixes several adapters",
    "init_lora_weights": "this initialization changes the base as well",
    "kasa_config": "the base is truncated as well",
    "layer_replication": "blocks are repeated",
    "lora_bias": "B has a bias",
    "megatron_config": "the modules are Megatron's",
    "target_parameters": "adapters sit on parameters, not on modules",
    "trainable_token_indices": "rows of the token embedding are trained",
    "use_qalora": "the adapters' input is pooled",
}
NEVER_MERGED = {"alora_invocation_tokens", "arrow_config", "use_qalora"}  # peft refuses to merge these


class NotComputed(UsageError):
    """An adapter that PEFT supports and explora does not; `can_merge`: PEFT can merge it into the base."""

    def __init__(self, message: str, *, can_merge: bool = True) -> None:
        super().__init__(message)
        self.can_merge = can_merge


def refuse_unreadable(
    config: Mapping[str, Any], read: Container[str], readable: Mapping[str, Sequence[Any]]
) -> None:
    """Raise NotComputed for fields that explora does not read and that change what an adapter computes.

    `read` are the method's own fields, `readable` those that may have some values only. A field that is in
    neither must be empty.
    """

    def is_fine(name: str, value: Any) -> bool:
        if (values := {**READABLE, **readable}.get(name)) is not None:
            return value in values
        return name in READ or name in read or not value

    refused = {name: value for name, value in config.items() if not is_fine(name, value)}
    if refused:
        listed = ", ".join(
            f"{name} {value!r}" + (f" ({REASONS[name]})" if name in REASONS else "")
            for name, value in sorted(refused.items())
        )
        raise NotComputed(
            f"explora does not read adapters with {listed}", can_merge=not NEVER_MERGED & refused.keys()
        )


# Names of modules


def adapted_places(config: Mapping[str, Any], modules: ModuleNames) -> list[Place]:
    """Return the modules that PEFT adapts. Raises UsageError if there are none."""
    wanted = _names(config, "target_modules")
    if config.get("target_modules") is None:
        wanted = USUAL_MODULES[config["peft_type"]]
    found = [place for name, place in modules.items() if _is_adapted(name, wanted, config)]
    if not found:
        known = ", ".join(dict.fromkeys(module for module, _ in TARGETS.values()))
        raise UsageError(f"target_modules {wanted!r} names no module that explora adapts: {known}")
    return found


def _is_adapted(name: str, wanted: str | list[str], config: Mapping[str, Any]) -> bool:
    if _is_named(name, _names(config, "exclude_modules"), "exclude_modules") or _is_saved(name, config):
        return False
    if isinstance(wanted, str):
        return wanted.lower() == ALL_LINEAR or _is_named(name, wanted, "target_modules")
    return name in wanted or (_is_named(name, wanted, "target_modules") and _is_in_blocks(name, config))


def _names(config: Mapping[str, Any], field: str) -> str | list[str]:
    """Return a field with names of modules or one regular expression; [] if it is missing."""
    value = config.get(field)
    if value is None:
        return []
    if isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value)):
        return value
    raise UsageError(f"{field} {value!r} is neither a list of module names nor a regular expression")


def _is_named(name: str, wanted: str | list[str], field: str) -> bool:
    """Match a full name against one regular expression, or the end of it against a list of names."""
    if isinstance(wanted, str):
        return bool(wanted) and _compiled(wanted, field).fullmatch(name) is not None
    return any(f".{name}".endswith(f".{item}") for item in wanted)


def _is_saved(name: str, config: Mapping[str, Any]) -> bool:
    """Return whether a module is trained and saved whole, or lies in such a module; it gets no adapter."""
    saved = _names(config, "modules_to_save")
    if isinstance(saved, str):
        raise UsageError(f"modules_to_save {saved!r} is not a list of module names")
    pattern = r"(^|.*\.){}($|\..*)"
    return any(_compiled(pattern.format(item), "modules_to_save").match(name) for item in saved)


def _is_in_blocks(name: str, config: Mapping[str, Any]) -> bool:
    blocks = config.get("layers_to_transform")
    if blocks is None or blocks == []:
        return True
    numbers = [blocks] if isinstance(blocks, int) else blocks
    if not isinstance(numbers, list) or not all(isinstance(number, int) for number in numbers):
        raise UsageError(f"layers_to_transform {blocks!r} is neither a block nor a list of blocks")
    number = _block_number(name, config)
    return number is not None and int(number) in numbers


def _block_number(name: str, config: Mapping[str, Any]) -> str | None:
    lists = _names(config, "layers_pattern")
    patterns = [rf"(?:^|.*?\.){each}" for each in ([lists] if isinstance(lists, str) else lists) if each]
    tried = (
        _compiled(rf"{pattern}\.(?P<block>\d+)\.", "layers_pattern").match(name)
        for pattern in patterns or [r".*?\.[^.]*"]
    )
    found = next((match for match in tried if match), None)
    return found["block"] if found else None


def _compiled(pattern: str, field: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UsageError(f"{field}: {pattern!r} is not a regular expression: {error}") from None


def inner_places(config: Mapping[str, Any], modules: ModuleNames) -> set[Place]:
    """Return the modules whose input IA3 rescales. A name in the list matches every name that ends with it.

    Source: peft 0.21, peft.tuners.ia3.model; unlike elsewhere, the match need not start at a dot.
    """
    wanted = _names(config, "feedforward_modules")
    if config.get("feedforward_modules") is None:
        wanted = USUAL_MODULES["IA3"][1:]
    if isinstance(wanted, str):
        matches = _compiled(wanted, "feedforward_modules").fullmatch
        return {place for name, place in modules.items() if matches(name)}
    return {place for name, place in modules.items() if name.endswith(tuple(wanted))}


# Places as explora's settings


def around(places: Sequence[Place], modules: ModuleNames) -> dict[str, Any]:
    """Return settings `targets` and `layers` that cover these places, with c_attn as a whole.

    The settings cover exactly these places if every chosen block has the same modules, and more otherwise.
    """
    names = {"c_attn" if path == "attn.c_attn" else name: path for name, (path, _) in TARGETS.items()}
    paths = {module for _, module in places}
    blocks = Blocks(block for block, _ in places)
    is_everywhere = {*blocks} == {block for block, _ in modules.values()}
    return {
        "targets": tuple(name for name, path in names.items() if path in paths),
        "layers": None if is_everywhere else blocks,
    }


def values_of(config: Mapping[str, Any], field: str, modules: ModuleNames, usual: V) -> dict[Place, V]:
    """Return the value of rank_pattern or alpha_pattern for each module, `usual` if no key matches.

    PEFT uses the first key, a regular expression, that matches the end of a module's full name. Raises
    UsageError for a field that is not a pattern.
    """
    pattern = config.get(field) or {}
    if not isinstance(pattern, Mapping):
        raise UsageError(f"{field} {pattern!r} is not an object")
    keys = [(_compiled(rf"(.*\.)?({key})$", field), value) for key, value in pattern.items()]
    return {
        place: next((value for key, value in keys if key.match(name)), usual)
        for name, place in modules.items()
    }


def by_module(values: Mapping[Place, V], common: V) -> dict[str, V]:
    """Return explora's pattern for these values: `mlp.c_fc` for all blocks except those named `h.3.mlp.c_fc`.

    A module without a key has the value `common`.
    """
    pattern: dict[str, V] = {}
    for module in dict.fromkeys(module for _, module in values):
        own = {block: value for (block, name), value in values.items() if name == module}
        usual, _ = Counter(own.values()).most_common(1)[0]
        if usual != common:
            pattern[module] = usual
        pattern |= {f"h.{block}.{module}": value for block, value in own.items() if value != usual}
    return pattern
