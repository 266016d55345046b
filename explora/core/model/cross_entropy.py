"""Cross-entropy over the tied head in chunks, so that the (N, V) logits are never stored at once.

The forward pass computes the loss and the gradient of a chunk together. It saves the gradient of the hidden
states, (N, C), and, if the embedding is trained, its gradient, (V, C).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from explora.core.model.onednn import product

LOGITS_AT_ONCE = 1 << 22  # logits per chunk: 16 MiB in fp32, which fit into a large cache
LOGITS_AT_ONCE_ON_GPU = 1 << 26  # a GPU needs larger products for full use
FEWEST_ROWS = 128  # per chunk, so that its products are efficient for every vocabulary


class _TiedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        wants_hidden, wants_weight, _ = ctx.needs_input_grad
        rows = rows_at_once(weight)
        head = weight.to(hidden.dtype)
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        for start in range(0, len(hidden), rows):
            part, target = hidden[start : start + rows], targets[start : start + rows]
            log_probabilities = F.log_softmax(product(part, head.t()).float(), dim=-1)
            total += F.nll_loss(log_probabilities, target, reduction="sum")
            if grad_hidden is None and grad_weight is None:
                continue
            grad = log_probabilities.exp_()
            grad[torch.arange(len(target), device=grad.device), target] -= 1
            grad = grad.to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[start : start + rows] = product(grad, head)
            if grad_weight is not None:
                grad_weight += product(grad.t(), part)
        ctx.save_for_backward(grad_hidden, grad_weight)
        return total.float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        scale = grads[0]
        return (
            None if grad_hidden is None else grad_hidden.mul_(scale.to(grad_hidden.dtype)),
            None if grad_weight is None else grad_weight.mul_(scale),
            None,
        )


def tied_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Return the summed cross-entropy, in nats, of targets (N,) under softmax(hidden weight^T).

    hidden: (N, C); weight: the tied embedding, (V, C).
    """
    total: Tensor = _TiedCrossEntropy.apply(hidden, weight, targets)  # type: ignore[no-untyped-call]
    return total


def rows_at_once(weight: Tensor) -> int:
    """Return the number of rows in a chunk for the tied embedding (V, C)."""
    logits = LOGITS_AT_ONCE if weight.device.type == "cpu" else LOGITS_AT_ONCE_ON_GPU
    return max(FEWEST_ROWS, logits // weight.shape[0])


def token_losses(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of each target, (N,), in the same chunks and without gradients."""
    rows = rows_at_once(weight)
    head = weight.to(hidden.dtype)
    with torch.no_grad():
        parts = [
            F.cross_entropy(product(part, head.t()).float(), target, reduction="none")
            for part, target in zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True)
        ]
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)
