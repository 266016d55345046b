"""What PEFT's adapter_config.json says in the same way for several methods, read strictly."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from explora.core.config.registry import TARGETS
from explora.core.config.values import Blocks
from explora.errors import UsageError

# Fields of every method that are read, or change nothing that an adapter computes.
READ = {
    *("peft_type", "target_modules", "layers_to_transform", "fan_in_fan_out"),
    *("task_type", "base_model_name_or_path", "auto_mapping", "peft_version", "inference_mode"),
}
# Fields that may have these values alone.
READABLE: dict[str, Sequence[Any]] = {"bias": ("none",), "layers_pattern": (None, [], "h", ["h"])}
HEADS = {"score", "classifier"}
MOST_BLOCKS = 100  # a pattern is tried on this many blocks; no GPT-2 has more


def refuse_unreadable(
    config: Mapping[str, Any], read: Container[str], readable: Mapping[str, Sequence[Any]]
) -> None:
    """Raise UsageError for fields that would change what is computed and that explora does not read.

    `read` are the method's own fields, `readable` those that may have some values only. A field that is in
    neither must be empty.
    """

    def is_fine(name: str, value: Any) -> bool:
        if (values := {**READABLE, **readable}.get(name)) is not None:
            return value in values
        if name == "modules_to_save":
            return set(value or ()) <= HEADS
        return name in READ or name in read or not value

    refused = [f"{name} {value!r}" for name, value in config.items() if not is_fine(name, value)]
    if refused:
        raise UsageError(f"explora does not read adapters with {', '.join(sorted(refused))}")


def targets_of(wanted: Any) -> tuple[str, ...]:
    """Return the targets that `target_modules` names, c_attn as a whole. Raises UsageError."""
    names = {"c_attn" if path == "attn.c_attn" else name: path for name, (path, _) in TARGETS.items()}
    if not isinstance(wanted, list):
        raise UsageError(f"target_modules {wanted!r} is not a list of module names")
    for item in wanted:
        if not any(_ends_with(path, item) for path in names.values()):
            raise UsageError(f"target_modules has {item!r}, which explora's GPT-2 does not adapt")
    return tuple(name for name, path in names.items() if any(_ends_with(path, item) for item in wanted))


def _ends_with(path: str, item: str) -> bool:
    return f".{path}".endswith(f".{item}")


def blocks_of(wanted: Any) -> Blocks | None:
    """Return the blocks that `layers_to_transform` names, a number or a list. Raises UsageError."""
    if wanted is None:
        return None
    numbers = [wanted] if isinstance(wanted, int) else wanted
    if not numbers or not all(type(number) is int and number >= 0 for number in numbers):
        raise UsageError(f"layers_to_transform {wanted!r} is not a list of blocks")
    return Blocks(numbers)


def by_module(config: Mapping[str, Any], field: str, modules: Iterable[str]) -> dict[str, Any]:
    """Return a pattern of PEFT by plain names: `mlp.c_fc` for all blocks but those named as `h.3.mlp.c_fc`.

    PEFT takes the value of the first key, a regular expression, that fits the end of a module's full name.
    Raises UsageError for a field that is no pattern.
    """
    found: dict[str, Any] = {}
    for module in modules:
        values = _by_layer(config.get(field) or {}, module, field)
        usual = None if None in values else values[-1]
        some = enumerate(values)
        found |= {f"h.{layer}.{module}": each for layer, each in some if each not in (None, usual)}
        if usual is not None:
            found[module] = usual
    return found


def _by_layer(pattern: Any, module: str, field: str) -> list[Any]:
    """Return the value for a module in each block, None where no key fits."""
    if not isinstance(pattern, Mapping):
        raise UsageError(f"{field} {pattern!r} is not an object")
    try:
        return [_first(pattern, f"transformer.h.{layer}.{module}") for layer in range(MOST_BLOCKS)]
    except re.error as error:
        raise UsageError(f"{field} {pattern!r} is not a regular expression: {error}") from None


def _first(pattern: Mapping[str, Any], name: str) -> Any:
    return next((value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", name)), None)
