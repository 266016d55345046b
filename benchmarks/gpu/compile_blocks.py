"""Let torch.compile fuse the blocks of explora's GPT-2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from explora.core.model import gpt2
from explora.core.model.gpt2 import GPT2


def use_plain_operations(model: GPT2) -> None:
    """Replace what torch.compile cannot trace in the blocks by torch's own operations, in this process.

    explora's products, GELU and plain attention have backward passes of their own, and it recomputes tensors
    by hooks on what autograd saves. All of them save time or memory on a CPU, where nothing is fused.
    """
    for name, plain in (("affine", _affine), ("gelu", _gelu), ("recompute_between", _apply_both)):
        setattr(gpt2, name, plain)
    model.limit_plain_attention(0)


def compile_blocks(model: GPT2) -> None:
    """Compile the blocks in place. They share one graph, since they differ in their weights alone."""
    use_plain_operations(model)
    for block in model.h:
        block.compile(dynamic=False)


def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.addmm(bias.to(x.dtype), x, weight.to(x.dtype))


def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _apply_both(
    inner: Callable[[Tensor], Tensor], outer: Callable[..., Tensor], x: Tensor, *arguments: Any
) -> Tensor:
    return outer(inner(x), *arguments)
