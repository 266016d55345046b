"""Read adapters that PEFT wrote: find the method that computes the same, and load their tensors into it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from explora.core.base.find import Base
from explora.core.config.method import Method, ModuleNames, Place
from explora.core.config.registry import METHODS, method_class
from explora.core.config.setting import check_settings
from explora.core.methods.peft_format import NotComputed, adapted_places
from explora.core.model.gpt2 import GPT2
from explora.core.runs.adapter import CONFIG_FILE, from_peft_tensors, to_peft_tensors
from explora.core.runs.peft_names import (
    SCORE,
    bias_among,
    inner_name,
    module_names,
    place_of,
    usual_name,
)
from explora.core.training.checkpoint import trained_tensors
from explora.errors import AdapterError, UsageError

TIED = ("wte", "lm_head")
ELSEWHERE = re.compile(r"(wte|wpe|ln_f|h\.\d+\.ln_\d|lm_head|score)\.(?:lora_|ia3_)")
# Methods of PEFT that put vectors into the prompt or choose among adapters.
NEVER_MERGED = re.compile(r"PROMPT|PREFIX|P_TUNING|CPT|CARTRIDGE|XLORA|POLY")


@dataclass(frozen=True, kw_only=True)
class ForeignAdapter:
    """An adapter without an explora header, together with its base.

    `tensors` have PEFT's usual names. `method` computes the same as PEFT. It may adapt more modules than the
    adapter: those in `idle` keep their initial values, with which every method leaves the base unchanged.
    """

    folder: Path
    base: Base
    method: Method
    tensors: Mapping[str, Tensor]
    idle: Set[Place]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels 0, 1, ... of the classes of its head; empty if it has no head."""
        score = self.tensors.get(SCORE)
        return () if score is None or score.dim() != 2 else tuple(map(str, range(len(score))))


def read_foreign(folder: Path, tensors: Mapping[str, Tensor], base: Base) -> ForeignAdapter:
    """Find the method for the tensors and the configuration in a folder.

    Raises AdapterError, with the reason and an alternative, for adapters that explora does not support.
    """
    named = _by_usual_names(folder, tensors)
    config = _read_config(folder)
    modules = module_names(tensors, base.shape)
    _check_places(folder, named, base)
    try:
        method = _described_by(config, modules)
        check_settings(method)
        method.validate()
        places = set(adapted_places(config, modules))
    except NotComputed as error:
        hint = (
            merging(folder, base, named) if error.can_merge else "peft cannot merge it into its base either"
        )
        raise AdapterError(f"{folder / CONFIG_FILE}: {error}", hint) from None
    except (ValueError, TypeError, UsageError) as error:
        raise AdapterError(f"{folder / CONFIG_FILE}: {error}") from None
    own = method.file_shapes(base.shape)
    return ForeignAdapter(
        folder=folder,
        base=base,
        method=method,
        tensors={bias_among(name, own): value for name, value in named.items()},
        idle=_adapted(own) - places,
    )


def insert_foreign(model: GPT2, adapter: ForeignAdapter) -> None:
    """Load the tensors of an adapter into a model that has its method. Raises AdapterError."""
    method, own = adapter.method, trained_tensors(model)
    start = to_peft_tensors(own, method)
    tensors = _without_base(adapter, start, model)
    kept = {
        name: value
        for name, value in start.items()
        if place_of(name) in adapter.idle and not (name.endswith(".bias") and name in tensors)
    }
    with torch.no_grad():
        for name, value in from_peft_tensors(tensors, own, method, str(adapter.folder), kept).items():
            own[name].copy_(value)


def _adapted(names: Iterable[str]) -> set[Place]:
    adapters = (place_of(name) for name in names if not name.endswith(".bias"))
    return {place for place in adapters if place is not None}


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG_FILE
    try:
        text = file.read_text(encoding="utf-8")
        # Names may contain torch.compile's wrapper, plain or escaped; tensors are read without it, too.
        config = json.loads(re.sub(r"_orig_mod\\*\.", "", text))
    except (OSError, ValueError) as error:
        raise AdapterError(f"{file} is not readable: {error}", "a PEFT adapter needs this file") from None
    if not isinstance(config, dict) or "peft_type" not in config:
        raise AdapterError(
            f"{file} has no peft_type: it is not a PEFT adapter", "explora does not read mlx-lm adapters"
        )
    return config


def _described_by(config: Mapping[str, Any], modules: ModuleNames) -> Method:
    for name in METHODS:
        if (method := method_class(name).from_peft(config, modules)) is not None:
            return method
    kind = config["peft_type"]
    raise NotComputed(
        f"explora does not read adapters with peft_type {kind!r}",
        can_merge=NEVER_MERGED.search(str(kind)) is None,
    )


def _by_usual_names(folder: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for key, value in tensors.items():
        name = usual_name(key)
        if name in named:
            raise AdapterError(f"{folder} has {name} twice, the second time as {key}")
        named[name] = value
    return named


def _check_places(folder: Path, named: Mapping[str, Tensor], base: Base) -> None:
    """Raise AdapterError for adapters on blocks that the base does not have, or outside of blocks."""
    blocks = {place[0] for name in named if (place := place_of(name)) is not None}
    if blocks and max(blocks) >= base.shape.n_layer:
        raise AdapterError(
            f"{folder} adapts block {max(blocks)}; {base.label} has blocks 0-{base.shape.n_layer - 1}",
            "name its base: --model NAME|FOLDER",
        )
    for name in named:
        if (match := ELSEWHERE.match(inner_name(name))) is not None:
            raise _not_in_a_block(f"{folder} has an adapter on {match[1]}", match[1], folder, base, named)


def _without_base(adapter: ForeignAdapter, start: Mapping[str, Tensor], model: GPT2) -> dict[str, Tensor]:
    """Return the tensors without those of the base itself, such as a `lm_head` in modules_to_save.

    Raises AdapterError if such a tensor differs from the base's, because it was trained.
    """
    parameters: dict[str, Tensor] = dict(model.named_parameters())
    parameters["lm_head.weight"] = model.wte.weight
    remaining: dict[str, Tensor] = {}
    for name, value in adapter.tensors.items():
        parameter = parameters.get(inner_name(name))
        if parameter is None or name in start:
            remaining[name] = value
        elif parameter.shape != value.shape or not parameter.detach().equal(value.to(parameter.dtype)):
            what = f"{adapter.folder} has {inner_name(name)}, which differs from the base's"
            module = inner_name(name).rpartition(".")[0]
            raise _not_in_a_block(what, module, adapter.folder, adapter.base, adapter.tensors)
    return remaining


def _not_in_a_block(
    what: str, module: str, folder: Path, base: Base, named: Mapping[str, Tensor]
) -> AdapterError:
    if module in TIED:
        return AdapterError(
            f"{what}; explora's GPT-2 has one matrix for the token embedding and the head",
            f"merging would separate the two: train without {module}, or use the adapter with peft",
        )
    return AdapterError(
        f"{what}; explora adapts the modules of attention and MLP", merging(folder, base, named)
    )


def merging(folder: Path, base: Base, named: Mapping[str, Tensor]) -> str:
    """Return a hint with the two commands that merge an adapter into its base with peft."""
    kind, more = "AutoModelForCausalLM", ""
    if SCORE in named:
        kind, more = "AutoModelForSequenceClassification", f", num_labels={len(named[SCORE])}"
    source = str(base.folder or base.name)
    merge = (
        f"from peft import PeftModel as P; from transformers import {kind} as M; "
        f"P.from_pretrained(M.from_pretrained({source!r}, dtype='float32'{more}), {str(folder)!r})"
        ".merge_and_unload().save_pretrained('merged')"
    )
    tokenizer = (
        "from transformers import AutoTokenizer as T; "
        f"T.from_pretrained({source!r}).save_pretrained('merged')"
    )
    return f'let peft merge it, then use --model merged: python -c "{merge}"; python -c "{tokenizer}"'
