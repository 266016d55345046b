"""The layers of DoRA (Liu et al. 2024): y = m / ||V|| * x V + b with V = W + scale (B A)^T, column by column.

||V|| is a constant for the gradient (section 4.3). V itself is never computed. For one column of W and B,

    ||W + s A^T B||^2 = ||W||^2 + 2 s (A W) . B + s^2 B . (A A^T) B

||W||^2 is computed once. The rest takes one product of A and W whenever A or B has changed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from explora.core.methods.lora_layers import LoRALinear
from explora.core.methods.portions import in_portions
from explora.core.methods.targets import Parts
from explora.core.model.gpt2 import Conv1D


class _Rescale(torch.autograd.Function):
    """Multiply part p of y - b by m_p / ||V_p||, in place; saves the new y for backward.

    The gradient of m is the sum over the rows of grad_y * (y - b), divided by m, so the old y is not needed.
    """

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, magnitude: Tensor, norms: Tensor, bias: Tensor, parts: tuple[int, ...]
    ) -> Tensor:
        gains = magnitude / norms
        for gain, part in zip(gains, parts, strict=True):
            size = len(gain)
            shift = (1 - gain) * _part(bias, part, size)
            for some in in_portions(_part(y, part, size)):
                torch.addcmul(shift, some, gain, out=some)  # rounds once in half precision
        ctx.mark_dirty(y)
        ctx.save_for_backward(y, magnitude, gains, bias)
        ctx.parts = parts
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        y, magnitude, gains, bias = ctx.saved_tensors
        grad_y, grad_magnitude = grads[0].clone(), torch.empty_like(magnitude)
        grad_bias = torch.zeros_like(bias) if ctx.needs_input_grad[3] else None
        for index, part in enumerate(ctx.parts):
            gain, size = gains[index], gains.shape[1]
            grad, offset = _part(grad_y, part, size), _part(bias, part, size).to(gain.dtype)
            if grad_bias is not None:
                _part(grad_bias, part, size).copy_((1 - gain) * grad.sum(0, dtype=gain.dtype))
            along = torch.zeros_like(gain)
            for some, after in zip(in_portions(grad), in_portions(_part(y, part, size)), strict=True):
                along += (some * (after - offset)).sum(0)
                some.mul_(gain)
            grad_magnitude[index] = along / magnitude[index]
        return grad_y, grad_magnitude, None, grad_bias, None


def _part(value: Tensor, part: int, size: int) -> Tensor:
    """Return a view of the columns of one part of c_attn, or of all columns."""
    return value[..., part * size : (part + 1) * size]


class DoRALinear(LoRALinear):
    """A frozen Conv1D with trained low-rank adapters and trained magnitudes of its columns, (P, span)."""

    base_squares: Tensor  # ||W||^2 of each column, (P, span)

    def __init__(
        self, base: Conv1D, parts: Parts, rank: int, scale: float = 2.0, dropout: float = 0.0
    ) -> None:
        super().__init__(base, parts, rank, scale, dropout)
        size = self.lora_B.shape[1]
        squares = base.weight.detach().float().square().sum(0)
        own = torch.stack([_part(squares, part, size) for part in self.parts])
        self.register_buffer("base_squares", own, persistent=False)
        self.lora_magnitude_vector = nn.Parameter(own.sqrt())
        self._norms: tuple[tuple[int, ...], Tensor] | None = None  # with the state of their adapters

    def of_rows(self, x: Tensor) -> Tensor:
        """Compute the layer's output, (N, out), for rows (N, in)."""
        y = super().of_rows(x)
        magnitude, bias = self.lora_magnitude_vector, self.base_layer.bias
        rescaled: Tensor = _Rescale.apply(y, magnitude, self.norms(), bias, self.parts)  # type: ignore[no-untyped-call]
        return rescaled

    def norms(self) -> Tensor:
        """Return the norm of each column of W + scale (B A)^T, (P, span), without gradients.

        The norms are reused only outside of training, because fused optimizers do not raise a tensor's
        version.
        """
        if self.training or torch.is_grad_enabled():
            self._norms = None
            return self._compute_norms()
        adapters = (self.lora_A, self.lora_B)
        state = tuple(number for value in adapters for number in (value._version, value.data_ptr()))
        if self._norms is None or self._norms[0] != state:
            self._norms = (state, self._compute_norms())
        return self._norms[1]

    @torch.no_grad()
    def _compute_norms(self) -> Tensor:
        size, rank = self.lora_B.shape[1:]
        projected = self.base_layer.multiply(self.lora_A).to(self.lora_A.dtype)  # A W, (P r, out)
        squares = self.base_squares.clone()
        for index, part in enumerate(self.parts):
            ranks = slice(index * rank, (index + 1) * rank)
            a, b = self.lora_A[ranks], self.lora_B[index]  # (r, in), (span, r)
            crossed = _part(projected[ranks], part, size).t()  # (span, r)
            squares[index] += (b * (2 * self.scale * crossed + self.scale**2 * (b @ (a @ a.t())))).sum(1)
        return squares.sqrt()

    def adapted_weight(self) -> Tensor:
        """Return V with rescaled columns, (in, out), in fp64 if the device has it."""
        weight = super().adapted_weight()
        for magnitude, part in zip(self.lora_magnitude_vector.detach(), self.parts, strict=True):
            columns = _part(weight, part, len(magnitude))
            columns.mul_(magnitude / columns.norm(dim=0))
        return weight
