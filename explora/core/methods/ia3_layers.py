"""The layers of IA3: y = l * (x W + b), and y = (l * x) W + b for the second feed-forward product.

A layer has one vector for its whole output, or one for each chosen part of the fused `c_attn`: (P, span).
Vectors are stored and multiplied in fp32, because half precision loses small changes of a number near one.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from explora.core.config.method import Tensors
from explora.core.methods.adapted_layers import AdaptedLayer, replace_layer
from explora.core.methods.freezing import freeze
from explora.core.methods.ia3 import IA3, INNER
from explora.core.methods.portions import in_portions
from explora.core.methods.targets import FUSED, FUSED_PARTS, Parts, span
from explora.core.model.gpt2 import GPT2, Conv1D


class _ScaleColumns(torch.autograd.Function):
    """Multiply the columns of part p of y by l_p, in place; saves l and the old columns for backward."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, scale: Tensor, parts: tuple[int, ...]) -> Tensor:
        kept = [_columns(y, part, scale).clone() for part in parts]
        for index, part in enumerate(parts):
            _columns(y, part, scale).mul_(scale[index])
        ctx.mark_dirty(y)
        ctx.save_for_backward(scale, *kept)
        ctx.parts = parts
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scale, *kept = ctx.saved_tensors
        grad_columns = [_columns(grads[0], part, scale) for part in ctx.parts]
        pairs = zip(grad_columns, kept, strict=True)
        grad_scale = torch.stack([_column_sums(columns, before) for columns, before in pairs])
        if not ctx.needs_input_grad[0]:
            return None, grad_scale, None
        grad_y = grads[0].clone()
        for index, part in enumerate(ctx.parts):
            _columns(grad_y, part, scale).mul_(scale[index])
        return grad_y, grad_scale, None


def _column_sums(left: Tensor, right: Tensor) -> Tensor:
    """Return the sum over the rows of left * right in fp32, (columns,)."""
    total = left.new_zeros(left.shape[1], dtype=torch.float32)
    for some, others in zip(in_portions(left), in_portions(right), strict=True):
        total += (some.float() * others).sum(dim=0)
    return total


def _columns(y: Tensor, part: int, scale: Tensor) -> Tensor:
    size = scale.shape[1]
    return y[:, part * size : (part + 1) * size]


class _ScaleInput(torch.autograd.Function):
    """Return x * l, rounded once to the dtype of x; saves x and l for backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale)
        return torch.mul(x, scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor]:
        x, scale = ctx.saved_tensors
        grad = grads[0]
        grad_x = (grad * scale).to(grad.dtype) if ctx.needs_input_grad[0] else None
        return grad_x, _column_sums(grad, x)


class IA3Linear(AdaptedLayer):
    """A frozen Conv1D with trained vectors that rescale its output, or parts of it."""

    def __init__(self, base: Conv1D, parts: Parts) -> None:
        super().__init__()
        self.base_layer = base
        self.parts = parts if parts is not None else (0,)
        size = span(base.weight.shape[1], parts)
        self.ia3_l = nn.Parameter(torch.ones(len(self.parts), size, device=base.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer's output, (..., out), for x (..., in)."""
        rows = self.base_layer(x.reshape(-1, x.shape[-1]))
        y: Tensor = _ScaleColumns.apply(rows, self.ia3_l, self.parts)  # type: ignore[no-untyped-call]
        return y.view(*x.shape[:-1], -1)

    def merged(self) -> Conv1D:
        """Return the base layer with merged weights, multiplied in fp32 and cast last."""
        base, size = self.base_layer, self.ia3_l.shape[1]
        factor = torch.ones(base.weight.shape[1], device=base.weight.device)
        for index, part in enumerate(self.parts):
            factor[part * size : (part + 1) * size] = self.ia3_l.detach()[index]
        _multiply(base, "weight", factor)
        _multiply(base, "bias", factor)
        return base


class IA3Input(AdaptedLayer):
    """A frozen Conv1D with a trained vector that rescales its input."""

    def __init__(self, base: Conv1D) -> None:
        super().__init__()
        self.base_layer = base
        self.ia3_l = nn.Parameter(torch.ones(base.weight.shape[0], device=base.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer's output, (..., out), for x (..., in)."""
        rows = x.reshape(-1, x.shape[-1])
        y: Tensor = self.base_layer(_ScaleInput.apply(rows, self.ia3_l))  # type: ignore[no-untyped-call]
        return y.view(*x.shape[:-1], -1)

    def merged(self) -> Conv1D:
        """Return the base layer with merged weights, multiplied in fp32 and cast last."""
        _multiply(self.base_layer, "weight", self.ia3_l.detach()[:, None])
        return self.base_layer


def _multiply(base: Conv1D, name: str, factor: Tensor) -> None:
    value = getattr(base, name).detach()
    setattr(base, name, nn.Parameter((value.float() * factor).to(value.dtype), requires_grad=False))


def add_vectors(model: GPT2, method: IA3) -> None:
    """Freeze the model, then add vectors of ones to the modules that the method adapts."""
    freeze(model)
    for layer, module, parts in method.sites(model.shape):
        make = IA3Input if module == INNER else partial(IA3Linear, parts=parts)
        replace_layer(model, layer, module, make)


def to_peft(trained: Mapping[str, Tensor], modules: Mapping[str, Parts]) -> dict[str, Tensor]:
    """Return PEFT's vectors by name; `modules` are the rescaled modules of a block and their parts.

    PEFT has one vector per module: (out, 1) for the output, (1, in) for the input. Vectors of parts of c_attn
    are written as one vector, with ones for the other parts.
    """
    return {name: _whole(name, value, modules) for name, value in trained.items()}


def _whole(name: str, value: Tensor, modules: Mapping[str, Parts]) -> Tensor:
    if value.dim() == 1:
        return value[None].contiguous()
    parts = modules.get(FUSED) if name.endswith(f"{FUSED}.ia3_l") else None
    if parts is None:
        return value[0][:, None].contiguous()
    whole = value.new_ones(FUSED_PARTS, value.shape[1])
    whole[list(parts)] = value
    return whole.view(-1, 1)


def from_peft(
    stored: Mapping[str, Tensor], shapes: Tensors, modules: Mapping[str, Parts]
) -> dict[str, Tensor]:
    """Return the vectors with these shapes by the model's own names: the inverse of `to_peft`."""
    return {name: _split(name, stored[name], shape, modules) for name, shape in shapes.items()}


def _split(name: str, stored: Tensor, shape: tuple[int, ...], modules: Mapping[str, Parts]) -> Tensor:
    parts = modules.get(FUSED) if name.endswith(f"{FUSED}.ia3_l") else None
    if parts is None:
        return stored.reshape(shape)
    return stored.view(FUSED_PARTS, -1)[list(parts)]
