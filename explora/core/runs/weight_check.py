"""Check merged weights against the method's formula, recomputed in fp64 from base and adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from explora.core.base.find import Base
from explora.core.base.weights import SCORE, load_model, stored_tensors
from explora.core.config.method import Method
from explora.core.estimate.parameters import PEFT_PREFIX
from explora.errors import AdapterError

INTEGERS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


def check_weights(folder: Path, base: Base, adapter: Mapping[str, Tensor], method: Method) -> None:
    """Compare every weight in a merged folder with the method's formula for base and adapter.

    `adapter` has PEFT's names. Raises AdapterError for a weight that differs by more than one unit in the
    last place of its stored type.
    """
    original = load_model(base, dtype=torch.float32, device=torch.device("cpu")).state_dict()
    stored = {_canonical(name): value for name, value in adapter.items()}
    written = stored_tensors(replace(base, folder=folder))
    if other := written.keys() ^ (original.keys() | ({SCORE} & stored.keys())):
        raise AdapterError(f"merging wrote unexpected or too few tensors: {', '.join(sorted(other))}")
    for name, item in written.items():
        expected = stored[name] if name == SCORE else method.merged_weight(name, original[name], stored)
        if (apart := units_apart(item.read(), expected)) > 1:
            raise AdapterError(
                f"the merged {name} differs from the formula of {method.name} by {apart:,} units in the last "
                "place; nothing was written",
                "this is a bug in explora: please report it with the adapter's configuration",
            )


def _canonical(name: str) -> str:
    return name.removeprefix(PEFT_PREFIX).removeprefix("transformer.")


def units_apart(found: Tensor, expected: Tensor) -> int:
    """Return the largest difference of a tensor from `expected`, in units in the last place of its type.

    The bits of consecutive floating-point numbers of one sign are consecutive integers.
    """
    rounded = expected.to(found.dtype)
    if found.equal(rounded):
        return 0
    return int((_number(found) - _number(rounded)).abs().max())


def _number(value: Tensor) -> Tensor:
    """Return the index of each number among all numbers of its type; zero has index 0."""
    integers = INTEGERS[value.dtype]
    bits = value.contiguous().view(integers).long()
    return torch.where(bits < 0, torch.iinfo(integers).min - bits, bits)
