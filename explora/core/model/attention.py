"""Causal self-attention on the fused projection of query, key and value (Vaswani et al. 2017, section 3.2.1).

Shapes: B rows, T tokens, H heads, head width D, C = H D.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Largest number of keys for which plain attention, matrix products and a softmax, beats torch's fused kernel
# on a CPU (docs/LOG.md): used if `runtime.probe` has not measured this machine.
PLAIN_UP_TO = {torch.bfloat16: 512, torch.float32: 128}
# Longest row, in tokens, whose probabilities are saved: in longer rows, the (T, T) probabilities of all heads
# would need more memory than everything else that is saved.
KEPT_UP_TO = 128


def plain_is_faster(x: Tensor, keys: int, up_to: int | None) -> bool:
    """Return whether plain attention over `keys` keys beats the fused kernel, for the device and dtype of x.

    up_to: the largest number of keys for which it does on this machine, None if that was not measured.
    """
    limit = PLAIN_UP_TO.get(x.dtype, 0) if up_to is None else up_to
    return x.device.type == "cpu" and keys <= limit


def causal_attention(projected: Tensor, heads: int) -> Tensor:
    """Attend from each token to itself and earlier ones; maps query, key, value (B, T, 3 C) to (B, T, C)."""
    attended: Tensor = _CausalAttention.apply(projected, heads)  # type: ignore[no-untyped-call]
    return attended


class _CausalAttention(torch.autograd.Function):
    """Plain attention that saves one copy of query, key and value, and the probabilities of short rows."""

    @staticmethod
    def forward(ctx: Any, projected: Tensor, heads: int) -> Tensor:
        batch, length, _ = projected.shape
        parts = projected.view(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        query_key_value = parts.reshape(3, batch * heads, length, -1)
        probabilities = _probabilities(*query_key_value[:2])
        attended = torch.bmm(probabilities, query_key_value[2])  # (B H, T, D)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(query_key_value, probabilities if length <= KEPT_UP_TO else None)
        return attended.view(batch, heads, length, -1).transpose(1, 2).reshape(batch, length, -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        query_key_value, probabilities = ctx.saved_tensors
        query, key, value = query_key_value
        if probabilities is None:
            probabilities = _probabilities(query, key)
        batch, length, width = grads[0].shape
        size = query.shape[-1]
        grad = grads[0].view(batch, length, -1, size).transpose(1, 2).reshape(query.shape)
        result = torch.empty_like(query_key_value)
        torch.bmm(probabilities.transpose(1, 2), grad, out=result[2])
        scores = torch._softmax_backward_data(
            torch.bmm(grad, value.transpose(1, 2)), probabilities, -1, probabilities.dtype
        )
        scale = size**-0.5
        torch.baddbmm(query, scores, key, beta=0, alpha=scale, out=result[0])
        torch.baddbmm(key, scores.transpose(1, 2), query, beta=0, alpha=scale, out=result[1])
        whole = result.view(3, batch, -1, length, size).permute(1, 3, 0, 2, 4)
        return whole.reshape(batch, length, 3 * width), None


def _probabilities(query: Tensor, key: Tensor) -> Tensor:
    """Return softmax(Q K^T / sqrt(D)) under the causal mask: (B H, T, T)."""
    length = query.shape[1]
    mask = query.new_full((length, length), -torch.inf).triu_(1)
    scores = torch.baddbmm(mask, query, key.transpose(1, 2), alpha=query.shape[-1] ** -0.5)
    return torch.softmax(scores, dim=-1)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    plain_up_to: int | None = None,
) -> Tensor:
    """Attend from queries (B, H, T, D) to keys and values (B, H, S, D), with a mask and dropout.

    A query attends to the keys whose mask is true. Without a mask, attention is causal and T = S, or T is 1
    and the query attends to all keys. In bf16, with up to `plain_up_to` keys, it is plain attention; see
    `plain_is_faster`.
    """
    causal = mask is None and query.shape[-2] > 1
    if query.dtype is torch.bfloat16 and plain_is_faster(query, key.shape[-2], plain_up_to):
        return _attend_plainly(query, key, value, causal_mask(key) if causal else mask, dropout)
    return F.scaled_dot_product_attention(query, key, value, mask, dropout, is_causal=causal)


def causal_mask(key: Tensor) -> Tensor:
    """Return the causal mask, (S, S): true on and below the diagonal."""
    length = key.shape[-2]
    return torch.ones(length, length, dtype=torch.bool, device=key.device).tril_()


def _attend_plainly(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)  # (B, H, T, S)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return F.dropout(scores.softmax(dim=-1), dropout) @ value
