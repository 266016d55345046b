"""The layers of LoRA: y = x W + (alpha / r) x A^T B^T, W frozen, A random, B zero (Hu et al. 2021).

A layer has one adapter for its whole output, or one for each chosen part of the fused `c_attn`. Both cases
have the same shapes, with P parts: A is stacked, (P r, in), and B is (P, span, r).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explora.core.config.method import Tensors
from explora.core.methods.adapted_layers import AdaptedLayer, merge_dtype, replace_layer
from explora.core.methods.freezing import train_only
from explora.core.methods.lora_biases import trained_biases
from explora.core.methods.targets import FUSED, FUSED_PARTS, Parts, span
from explora.core.model.gpt2 import GPT2, Conv1D

if TYPE_CHECKING:
    from explora.core.methods.lora import LoRA


class _AddLowRank(torch.autograd.Function):
    """Add scale * x A_p^T B_p^T to the columns of part p of y, in place; saves x, x A^T, A and B."""

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


class LoRALinear(AdaptedLayer):
    """A frozen Conv1D with trained low-rank adapters beside it.

    `parts` are the parts of c_attn that have adapters, None for one adapter on the whole output. `scale` is
    alpha / rank, and `dropout` applies to the adapters' input.
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
        a = torch.empty(len(self.parts) * rank, fan_in)  # drawn on the CPU: the same start on every device
        nn.init.kaiming_uniform_(a, a=math.sqrt(5))
        self.lora_A = nn.Parameter(a.to(device))
        self.lora_B = nn.Parameter(torch.zeros(len(self.parts), span(fan_out, parts), rank, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer's output, (..., out), for x (..., in)."""
        return self.of_rows(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], -1)

    def of_rows(self, x: Tensor) -> Tensor:
        """Compute the layer's output, (N, out), for rows (N, in)."""
        low_input = F.dropout(x, self.dropout, self.training) if self.dropout else x
        a, b = self.lora_A.to(x.dtype), self.lora_B.to(x.dtype)
        y: Tensor = _AddLowRank.apply(self.base_layer(x), low_input, a, b, self.parts, self.scale)  # type: ignore[no-untyped-call]
        return y

    def merged(self) -> Conv1D:
        """Return the base layer with merged weights, added in fp64 and cast last."""
        base = self.base_layer
        base.weight = nn.Parameter(self.adapted_weight().to(base.weight.dtype), requires_grad=False)
        return base

    def adapted_weight(self) -> Tensor:
        """Return W + scale (B A)^T, (in, out), in fp64 if the device has it."""
        weight = self.base_layer.weight.detach().to(merge_dtype(self.lora_A.device))
        span, rank = self.lora_B.shape[1:]
        for index, part in enumerate(self.parts):
            a = self.lora_A.detach()[index * rank : (index + 1) * rank].to(weight.dtype)  # (r, in)
            b = self.lora_B.detach()[index].to(weight.dtype)  # (span, r)
            weight[:, part * span : (part + 1) * span].addmm_(a.t(), b.t(), alpha=self.scale)
        return weight


def add_adapters(model: GPT2, method: LoRA, kind: type[LoRALinear] = LoRALinear) -> None:
    """Freeze everything except the method's biases, then add layers of class `kind` to the chosen modules."""
    train_only(model, trained_biases(method, model.shape))
    for layer, module, parts in method.sites(model.shape):
        rank, scale = method.rank_of(layer, module), method.scale_of(layer, module)
        make = partial(kind, parts=parts, rank=rank, scale=scale, dropout=method.lora_dropout)
        replace_layer(model, layer, module, make)


def to_peft(trained: Mapping[str, Tensor], modules: Mapping[str, Parts]) -> dict[str, Tensor]:
    """Return PEFT's A, B and biases by name; `modules` are the adapted modules of a block and their parts.

    PEFT has one adapter per module. Adapters on P parts of c_attn are written as one of rank P r: A is
    stacked, and B, (3 C, P r), has the B of each part in its own rows and columns, and zeros elsewhere.
    """
    return {_file_name(name): _fused(name, value, modules) for name, value in trained.items()}


def _file_name(name: str) -> str:
    return name if name.endswith(".bias") else f"{name}.weight"


def _fused(name: str, value: Tensor, modules: Mapping[str, Parts]) -> Tensor:
    parts = modules.get(FUSED)
    if not name.endswith("lora_B"):
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
    """Return A, B and biases with these shapes by the model's own names: the inverse of `to_peft`."""
    return {name: _split(name, stored[_file_name(name)], shape, modules) for name, shape in shapes.items()}


def _split(name: str, stored: Tensor, shape: tuple[int, ...], modules: Mapping[str, Parts]) -> Tensor:
    parts = modules.get(FUSED)
    if not name.endswith("lora_B"):
        return stored
    if parts is None or not name.endswith(f"{FUSED}.lora_B"):
        return stored.unsqueeze(0)
    _, rows, rank = shape
    blocks = [
        stored[part * rows : (part + 1) * rows, index * rank : (index + 1) * rank]
        for index, part in enumerate(parts)
    ]
    return torch.stack(blocks)
