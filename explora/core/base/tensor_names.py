"""Names of tensors in files: remove the wrappers of torch from them, and summarise them in messages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import zip_longest

# Modules that torch.compile, DistributedDataParallel, FSDP and activation checkpointing wrap around others.
WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
MOST_LISTED = 5
KINDS = ("missing", "unexpected", "misfitting")
# What the names of tensors show about the program that wrote them.
CAUSES = {
    r"\.base_layer\.weight$": "it was saved with PEFT's adapters: save model.merge_and_unload() instead",
    r"\.self_attn\.|\bquery_key_value\.": "these are the modules of another architecture than GPT-2",
    r"\.(SCB|absmax|qweight|quant_map)$": "its weights are quantized: explora reads fp32, fp16 and bf16",
}


def unwrapped(name: str) -> str:
    """Return a tensor's name without the modules that torch wraps around a model or a part of it.

    They change only names: `_orig_mod.h.0.ln_1.bias` is `h.0.ln_1.bias` of a compiled model.
    """
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def cause(names: Iterable[str]) -> str:
    """Return the likely reason why tensors with these names do not fit; empty if the names do not show it."""
    found = (text for name in names for pattern, text in CAUSES.items() if re.search(pattern, name))
    return next(found, "")


def listed(faults: Sequence[str]) -> str:
    """Join faults for a message: all of a few, or the number of each kind with some examples."""
    if len(faults) <= MOST_LISTED:
        return "; ".join(faults)
    kinds = {kind: [fault for fault in faults if _kind(fault) == kind] for kind in KINDS}
    counts = ", ".join(f"{len(each)} {kind}" for kind, each in kinds.items() if each)
    in_turn = [fault for turn in zip_longest(*kinds.values()) for fault in turn if fault]
    return f"{counts} tensors, among them {'; '.join(in_turn[:MOST_LISTED])}"


def _kind(fault: str) -> str:
    return next((kind for kind in KINDS if fault.startswith(f"{kind} ")), KINDS[-1])
