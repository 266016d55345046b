"""LoRA (Hu et al. 2021): y = x W + (alpha / r) x A^T B^T, W frozen, A random, B zero.

A layer holds one adapter for its whole output or one for each chosen part of the fused `c_attn`; both are
the same shape here, with P parts: A is stacked, (P r, in), and B is (P, span, r).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explora.core.config.registry import TARGETS
from explora.core.config.run_config import MethodConfig
from explora.core.methods.freezing import freeze
from explora.core.model.gpt2 import GPT2, Conv1D


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
    """A frozen Conv1D with trained low-rank adapters beside it."""

    def __init__(self, base: Conv1D, parts: tuple[int, ...] | None, config: MethodConfig) -> None:
        super().__init__()
        fan_in, fan_out = base.weight.shape
        self.base_layer = base
        self.parts = parts if parts is not None else (0,)
        self.scale, self.dropout = config.scale, config.lora_dropout
        span = fan_out if parts is None else fan_out // 3
        device = base.weight.device
        a = torch.empty(len(self.parts) * config.rank, fan_in, device=device)
        self.lora_A = nn.Parameter(a)
        self.lora_B = nn.Parameter(torch.zeros(len(self.parts), span, config.rank, device=device))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    @classmethod
    def from_base(cls, base: Conv1D, parts: tuple[int, ...] | None, config: MethodConfig) -> LoRALinear:
        """Put adapters beside `base`: for its whole output, or for these parts of its three."""
        return cls(base, parts, config)

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


def apply(model: GPT2, config: MethodConfig) -> None:
    """Freeze the model, then put adapters on the chosen targets of the chosen blocks."""
    freeze(model)
    first, last = config.layers or (0, len(model.h) - 1)
    for layer in range(first, last + 1):
        for path, parts in adapted_modules(config.targets).items():
            owner = model.h[layer].get_submodule(path.rpartition(".")[0])
            name = path.rpartition(".")[2]
            setattr(owner, name, LoRALinear.from_base(getattr(owner, name), parts, config))


def adapted_modules(targets: tuple[str, ...]) -> dict[str, tuple[int, ...] | None]:
    """Map each adapted module of a block to the parts of it that have an adapter of their own."""
    modules: dict[str, tuple[int, ...] | None] = {}
    for path in dict.fromkeys(path for path, _ in TARGETS.values()):
        chosen = [part for name, (module, part) in TARGETS.items() if module == path and name in targets]
        if chosen:
            modules[path] = None if None in chosen else tuple(part for part in chosen if part is not None)
    return modules


def merge(model: GPT2) -> None:
    """Replace every adapted layer by the plain one that computes the same."""
    for owner in list(model.modules()):
        for name, child in list(owner.named_children()):
            if isinstance(child, LoRALinear):
                setattr(owner, name, child.merged())
