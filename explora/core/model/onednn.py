"""Matrix products by oneDNN on x86 processors, where torch would use MKL by default.

The precision is the same. On AMD processors fp32 is about twice as fast, and adding a bias needs no second
pass (docs/LOG.md). Weights are (in, out), as GPT-2 stores them, unless noted.
"""

from __future__ import annotations

import functools
import platform
from typing import Any

import torch
from torch import Tensor


@functools.cache
def _onednn_takes(dtype: torch.dtype) -> bool:
    """Return whether this processor and this torch multiply the dtype by oneDNN."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if dtype is torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype is torch.float32


def uses_onednn(x: Tensor) -> bool:
    """Return whether products of this tensor are computed by oneDNN."""
    return x.device.type == "cpu" and _onednn_takes(x.dtype)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x (N, in) @ weight (in, out) + bias (out,), without gradients."""
    if uses_onednn(x) and not (
        bias is None and x.dtype is torch.bfloat16
    ):  # torch.mm then uses oneDNN itself
        return _linear(x, weight.t(), bias)
    return torch.mm(x, weight) if bias is None else torch.addmm(bias, x, weight)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x @ weight^T + bias by oneDNN; the weight is (out, in) or packed."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


class _Affine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        wants_x, wants_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if wants_weight else None, weight if wants_x else None)
        ctx.dtypes = weight.dtype, bias.dtype
        return product(x, weight.to(x.dtype), bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        grad, (x, weight) = grads[0], ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        weight_dtype, bias_dtype = ctx.dtypes
        return (
            product(grad, weight.to(grad.dtype).t()) if wants_x else None,
            product(x.t(), grad).to(weight_dtype) if wants_weight else None,
            grad.sum(0).to(bias_dtype) if wants_bias else None,
        )


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return x (N, in) @ weight (in, out) + bias (out,) in the dtype of x, with gradients for all three.

    Saves for the backward pass only what the required gradients need.
    """
    if not torch.is_grad_enabled():
        return product(x, weight.to(x.dtype), bias.to(x.dtype))
    y: Tensor = _Affine.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return y


def pack(weight: Tensor) -> Tensor | None:
    """Return a frozen weight (in, out) in oneDNN's own layout, or None if oneDNN does not support it.

    The result is an opaque tensor of shape (out, in), only for `packed_affine` and `packed_product`.
    """
    if not uses_onednn(weight):
        return None
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach().t())
    return packed


def packed_product(x: Tensor, weight: Tensor) -> Tensor:
    """Return x (N, in) @ weight of a packed weight, without gradients."""
    return _linear(x, weight, None)


class _PackedAffine(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, transposed: Tensor | None
    ) -> Tensor:
        ctx.transposed = transposed
        ctx.bias_dtype = None if bias is None else bias.dtype
        return _linear(x, weight, bias if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        grad = grads[0]
        wants_x, _, wants_bias, _ = ctx.needs_input_grad
        return (
            _linear(grad, ctx.transposed, None) if wants_x else None,
            None,
            grad.sum(0).to(ctx.bias_dtype) if wants_bias else None,
            None,
        )


def packed_affine(x: Tensor, weight: Tensor, bias: Tensor | None, transposed: Tensor | None) -> Tensor:
    """Return the result of `affine` for a frozen, packed weight; the bias may be trained.

    transposed: weight^T, packed; without it, x gets no gradient.
    """
    if not torch.is_grad_enabled():
        return _linear(x, weight, bias if bias is None else bias.to(x.dtype))
    y: Tensor = _PackedAffine.apply(x, weight, bias, transposed)  # type: ignore[no-untyped-call]
    return y
