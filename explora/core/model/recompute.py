"""Recompute tensors in the backward pass instead of saving them: single tensors, or a whole block."""

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


def recompute_between(
    inner: Callable[[Tensor], Tensor], outer: Callable[..., Tensor], x: Tensor, *arguments: Any
) -> Tensor:
    """Return outer(inner(x), *arguments), but save x for the backward pass instead of inner(x).

    The backward pass calls `inner` once more, so it must be cheap and deterministic.
    """
    source, between = x.detach(), inner(x)
    with recomputed(between, lambda: inner(source)):
        return outer(between, *arguments)


@contextmanager
def recomputed(value: Tensor, make: Callable[[], Tensor]) -> Iterator[None]:
    """Inside this context, autograd calls `make` in the backward pass instead of saving `value`.

    `make` must return the same bits as `value`, and it keeps its inputs in memory. Inside a checkpointed
    block, this context does nothing: the block saves nothing, and torch needs its tensors unchanged.
    """
    if _in_checkpoint.get() or not torch.is_grad_enabled():
        yield
        return
    # Autograd keeps the hooks in memory: they must not refer to `value` or, after the context, to `make`.
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
    """Call a block with gradient checkpointing (Chen et al. 2016): save only its arguments, and rerun it."""

    def call(*given: Any) -> Tensor:
        token = _in_checkpoint.set(True)
        try:
            return block(*given)
        finally:
            _in_checkpoint.reset(token)

    result: Tensor = checkpoint(call, *arguments, use_reentrant=False)
    return result
