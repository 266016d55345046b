"""GPT-2's GELU: the tanh approximation of Hendrycks and Gimpel 2016, section 2.

It is computed as x sigmoid(2 u), which equals x / 2 (1 + tanh(u)): on a CPU torch's sigmoid takes a quarter
of the time of its tanh.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LINEAR = 2 * math.sqrt(2 / math.pi)  # 2 u = LINEAR x + CUBIC x^3
CUBIC = 0.044715 * LINEAR
ELEMENTS_AT_ONCE = 1 << 19  # their fp32 intermediates fit the second-level cache
FEWEST_ELEMENTS = 1 << 16  # for smaller tensors, torch's single call is faster than these five


class _GELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _by_sigmoid(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.ops.aten.gelu_backward(grads[0], x, approximate="tanh")  # type: ignore[no-any-return]


def gelu(x: Tensor) -> Tensor:
    """Return GELU(x), computed in fp32 and rounded once to the dtype of x; saves x for the backward pass."""
    if x.device.type != "cpu" or x.dtype is not torch.bfloat16 or x.numel() < FEWEST_ELEMENTS:
        return F.gelu(x, approximate="tanh")
    y: Tensor = _GELU.apply(x) if torch.is_grad_enabled() else _by_sigmoid(x)  # type: ignore[no-untyped-call]
    return y


def _by_sigmoid(x: Tensor) -> Tensor:
    y, linear = torch.empty_like(x), torch.tensor(LINEAR)
    parts, places = (torch.split(whole.view(-1), ELEMENTS_AT_ONCE) for whole in (x, y))
    for part, into in zip(parts, places, strict=True):
        wide = part.float()
        torch.mul(wide, torch.addcmul(linear, wide, wide, value=CUBIC).mul_(wide).sigmoid_(), out=into)
    return y
