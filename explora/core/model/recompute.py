"""What is made again for the backward pass instead of being kept: some tensors, or all of a block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_in_checkpoint = ContextVar("in_checkpoint", default=False)


@dataclass(frozen=True)
class _Recipe:
    make: Callable[[], Tensor]
    shape: torch.Size


@contextmanager
def recomputed(value: Tensor, make: Callable[[], Tensor]) -> Iterator[None]:
    """Within, whatever autograd would keep of `value`, in any shape, `make` gives to the backward pass.

    `make` must return the bits of `value`, and hold what it is made of: that is kept in its place. In a
    checkpoint nothing is kept anyway, and hooks of ours would keep torch from seeing what there is.
    """
    if _in_checkpoint.get() or not torch.is_grad_enabled():
        yield
        return
    # Autograd holds on to the hooks, which must hold neither the value nor, once we are through, the recipe.
    address, size, recipes = value.data_ptr(), value.numel(), [make]

    def pack(kept: Tensor) -> Tensor | _Recipe:
        same = kept.numel() == size and kept.data_ptr() == address
        return _Recipe(recipes[0], kept.shape) if same else kept

    def unpack(packed: Tensor | _Recipe) -> Tensor:
        return packed.make().view(packed.shape) if isinstance(packed, _Recipe) else packed

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield
    recipes.clear()


def checkpointed(block: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """Call a block, and once more in the backward pass; only its arguments are kept (Chen et al. 2016)."""

    def call(*given: Any) -> Tensor:
        token = _in_checkpoint.set(True)
        try:
            return block(*given)
        finally:
            _in_checkpoint.reset(token)

    result: Tensor = checkpoint(call, *arguments, use_reentrant=False)
    return result
