"""The layers of LoRA: y = x W + (alpha / r) x A^T B^T, W frozen, A random, B zero (Hu et al. 2021).

A layer holds one adapter for its whole output or one for each chosen part of the fused `c_attn`; both are
the same shape here, with P parts: A is stacked, (P r, in), and B is (P, span, r).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explora.core.config.method import Tensors
from explora.core.methods.freezing import freeze
from explora.core.methods.targets import FUSED, FUSED_PARTS, Parts, span
from explora.core.model.gpt2 import GPT2, Conv1D

if TYPE_CHECKING:
    from explora.core.methods.lora import LoRA


class _AddLowRank(torch.autograd.Function):
    """Add scale * x A_p^T B_p^T to the columns of part p of y, in place; keeps x, x A^T, A and B."""

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, x: Tensor, a: Tensor, b: Tensor, parts: tuple[int, ...], scale: float
    ) -> Tensor:
        span, rank = b.shape[1:]
        low = x @ a.t()  # (N, P r)
        for index, part in enumerate(parts):
            columns = y[:, part * span : (part + 1) * span]
            columns.addmm_(low[:, index * rank : (index + 1) * rank], b[index].t(), alpha=scale)
        ctx.mark_dirty(y)
        ctx.save_for_backward(x, low, a, b)
        ctx.parts, ctx.scale = parts, scale
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, low, a, b = ctx.saved_tensors
        grad_y, (span, rank) = grads[0], b.shape[1:]
        grad_low, grad_b = torch.empty_like(low), torch.empty_like(b)
        for index, part in enumerate(ctx.parts):
            columns = grad_y[:, part * span : (part + 1) * span]
            ranks = slice(index * rank, (index + 1) * rank)
            torch.mm(columns, b[index], out=grad_low[:, ranks])
            torch.mm(columns.t(), low[:, ranks], out=grad_b[index])
        grad_low *= ctx.scale
        grad_b *= ctx.scale
        grad_x = grad_low @ a if ctx.needs_input_grad[1] else None
        return grad_y, grad_x, grad_low.t() @ x, grad_b, None, None


class LoRALinear(nn.Module):
    """A frozen Conv1D with trained low-rank adapters beside it.

    `parts` are those of c_attn with adapters of their own, None for one adapter on the whole output; `scale`
    is alpha / rank, `dropout` that on the adapters' input.
    """

    def __init__(
        self, base: Conv1D, parts: Parts, rank: int, scale: float = 2.0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        fan_in, fan_out = base.weight.shape
        self.base_layer = base
        self.parts = parts if parts is not None else (0,)
        self.scale, self.dropout = scale, dropout
        device = base.weight.device
        a = torch.empty(len(self.parts) * rank, fan_in, device=device)
        self.lora_A = nn.Parameter(a)
        self.lora_B = nn.Parameter(torch.zeros(len(self.parts), span(fan_out, parts), rank, device=device))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        rows = x.reshape(-1, x.shape[-1])
        low_input = F.dropout(rows, self.dropout, self.training) if self.dropout else rows
        a, b = self.lora_A.to(x.dtype), self.lora_B.to(x.dtype)
        y: Tensor = _AddLowRank.apply(self.base_layer(rows), low_input, a, b, self.parts, self.scale)  # type: ignore[no-untyped-call]
        return y.view(*x.shape[:-1], -1)

    def merged(self) -> Conv1D:
        """Return the base layer, which now computes the same: W + scale (B A)^T, added in fp32, cast last."""
        base = self.base_layer
        weight = base.weight.detach().float()
        span, rank = self.lora_B.shape[1:]
        for index, part in enumerate(self.parts):
            a = self.lora_A.detach()[index * rank : (index + 1) * rank]  # (r, in)
            b = self.lora_B.detach()[index]  # (span, r)
            weight[:, part * span : (part + 1) * span].addmm_(a.t(), b.t(), alpha=self.scale)
        base.weight = nn.Parameter(weight.to(base.weight.dtype), requires_grad=False)
        return base


def add_adapters(model: GPT2, method: LoRA) -> None:
    """Freeze the model, then put adapters beside the modules that the method names."""
    freeze(model)
    for layer, module, parts in method.sites(model.shape):
        owner = model.h[layer].get_submodule(module.rpartition(".")[0])
        name = module.rpartition(".")[2]
        adapted = LoRALinear(
            getattr(owner, name),
            parts,
            method.rank_of(layer, module),
            method.scale_of(layer, module),
            method.lora_dropout,
        )
        setattr(owner, name, adapted)


def merge_adapters(model: GPT2) -> None:
    """Replace every adapted layer by the plain one that computes the same."""
    for owner in list(model.modules()):
        for name, child in list(owner.named_children()):
            if isinstance(child, LoRALinear):
                setattr(owner, name, child.merged())


def to_peft(trained: Mapping[str, Tensor], modules: Mapping[str, Parts]) -> dict[str, Tensor]:
    """Return PEFT's A and B by name; `modules` are the adapted modules of a block with their parts.

    PEFT has one adapter per module. Adapters on P parts of c_attn are written as one of rank P r: A is
    stacked, and B, (3 C, P r), has the B of each part in its own rows and columns, and zeros elsewhere.
    """
    return {f"{name}.weight": _fused(name, value, modules) for name, value in trained.items()}


def _fused(name: str, value: Tensor, modules: Mapping[str, Parts]) -> Tensor:
    parts = modules.get(FUSED)
    if name.endswith("lora_A"):
        return value
    if parts is None or not name.endswith(f"{FUSED}.lora_B"):
        return value[0].contiguous()
    _, rows, rank = value.shape
    fused = torch.zeros(FUSED_PARTS * rows, len(parts) * rank, dtype=value.dtype)
    for index, part in enumerate(parts):
        fused[part * rows : (part + 1) * rows, index * rank : (index + 1) * rank] = value[index]
    return fused


def from_peft(
    stored: Mapping[str, Tensor], shapes: Tensors, modules: Mapping[str, Parts]
) -> dict[str, Tensor]:
    """Return A and B by the model's own names, where they have these shapes; the inverse of `to_peft`."""
    return {name: _split(name, stored[f"{name}.weight"], shape, modules) for name, shape in shapes.items()}


def _split(name: str, stored: Tensor, shape: tuple[int, ...], modules: Mapping[str, Parts]) -> Tensor:
    parts = modules.get(FUSED)
    if name.endswith("lora_A"):
        return stored
    if parts is None or not name.endswith(f"{FUSED}.lora_B"):
        return stored.unsqueeze(0)
    _, rows, rank = shape
    blocks = [
        stored[part * rows : (part + 1) * rows, index * rank : (index + 1) * rank]
        for index, part in enumerate(parts)
    ]
    return torch.stack(blocks)
