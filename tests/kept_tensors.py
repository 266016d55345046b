"""What a forward pass leaves behind for the backward pass, by looking at which storages live on."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class _Births(TorchDispatchMode):
    """Notes every storage that an operation makes, without keeping it."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor) and not value.is_mkldnn:
                storage = value.untyped_storage()
                self.storages[storage.data_ptr()] = weakref.ref(storage)
        return result


def kept_bytes(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Run `forward` and return the bytes of what lives on beside its result and the model's parameters."""
    births = _Births()
    with births:
        result = forward()
    gc.collect()
    alive = {at: storage for at, ref in births.storages.items() if (storage := ref()) is not None}
    for value in (result, *model.parameters()):
        alive.pop(value.untyped_storage().data_ptr(), None)
    return sum(storage.nbytes() for storage in alive.values())
