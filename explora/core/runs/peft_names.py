"""Names of an adapter's tensors: conversion of the spellings of PEFT and its users to one usual spelling."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable

from explora.core.base.tensor_names import unwrapped
from explora.core.config.method import Place
from explora.core.config.registry import TARGETS, Shape
from explora.core.estimate.parameters import HEAD, PEFT_PREFIX

BODY = "transformer."  # prefix of the blocks in a language model or a classifier
SCORE = f"{PEFT_PREFIX}{HEAD}.weight"
IN_MODULE = re.compile(r"h\.(\d+)\.((?:attn|mlp)\.\w+)\.")
OF_GPT2 = re.compile(rf"(?:{re.escape(BODY)})?((?:h\.\d+|wte|wpe|ln_f|{HEAD}|lm_head)\..+)")
ADAPTER_NAME = re.compile(
    r"\.(lora_[AB]|lora_magnitude_vector|ia3_l|modules_to_save)\.(?!weight$|bias$)[^.]+"
)


def usual_name(key: str) -> str:
    """Return PEFT's usual name of a tensor; the key itself if it is not a tensor of a GPT-2.

    Keys may lack PEFT's prefix, contain the adapter's name (`lora_A.default.weight`), start at the blocks as
    in a headless GPT2Model, and contain the wrappers of torch.compile and DistributedDataParallel.
    """
    name = ADAPTER_NAME.sub(r".\1", unwrapped(key).removeprefix(PEFT_PREFIX))
    name = name.replace(".modules_to_save.", ".").replace("magnitude_vector.weight", "magnitude_vector")
    match = OF_GPT2.fullmatch(name)
    if match is None:
        return key
    is_head = match[1].startswith((f"{HEAD}.", "lm_head."))
    return PEFT_PREFIX + ("" if is_head else BODY) + match[1]


def inner_name(name: str) -> str:
    """Return a usual name without prefixes, as in the base: `h.3.mlp.c_fc.lora_A.weight`."""
    return name.removeprefix(PEFT_PREFIX).removeprefix(BODY)


def place_of(name: str) -> Place | None:
    """Return block and module of a name, with or without prefix; None outside of modules.

    `h.3.mlp.c_fc.lora_A.weight` gives (3, "mlp.c_fc").
    """
    match = IN_MODULE.match(inner_name(name))
    return (int(match[1]), match[2]) if match else None


def bias_among(name: str, own: Container[str]) -> str:
    """Return the name of a bias as it is spelled in `own`, the inner names of a method's file.

    Modules with an adapter have a `base_layer`, except in PEFT before 0.7. A method may adapt more modules
    than the adapter, so both spellings occur.
    """
    inner = inner_name(name)
    plain = inner.replace(".base_layer.bias", ".bias")
    spellings = (plain, plain.replace(".bias", ".base_layer.bias"))
    return name.replace(inner, next((each for each in spellings if each in own), inner))


def module_names(keys: Iterable[str], shape: Shape) -> dict[str, Place]:
    """Return the modules that can have an adapter, by their full names in PEFT.

    `keys` are the names of the adapter's tensors; those of a headless GPT2Model start at the blocks.
    """
    is_headless = any(unwrapped(key).removeprefix(PEFT_PREFIX).startswith("h.") for key in keys)
    modules = dict.fromkeys(module for module, _ in TARGETS.values())
    return {
        f"{'' if is_headless else BODY}h.{block}.{module}": (block, module)
        for block in range(shape.n_layer)
        for module in modules
    }
