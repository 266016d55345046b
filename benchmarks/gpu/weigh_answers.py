"""The losses of pretraining: of running text, in which answers count more, and of answers alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ANSWER_WEIGHT = 30.0  # as in benchmarks/pretrain/pretext.py


def language_loss(hidden: Tensor, weight: Tensor, ids: Tensor, space: int, no: int, yes: int) -> Tensor:
    """Return the cross-entropy per token, plus ANSWER_WEIGHT times that between no and yes at each answer.

    hidden: (B, T, C) of ids (B, T + 1) without their last token; weight: the tied embedding, (V, C). An
    answer is the bare word no or yes after a lone space.
    """
    inputs, targets = ids[:, :-1], ids[:, 1:]
    logits = F.linear(hidden, weight.to(hidden.dtype)).float()
    total = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    margin = logits[..., yes] - logits[..., no]
    is_yes = targets == yes
    is_answer = (inputs == space) & (is_yes | (targets == no))
    answers = F.softplus(torch.where(is_yes, -margin, margin)) * is_answer
    return (total + ANSWER_WEIGHT * answers.sum()) / targets.numel()


def margin_of(hidden: Tensor, weight: Tensor, no: int, yes: int) -> Tensor:
    """Return by how much the logit of yes exceeds that of no, (B,), given hidden states (B, C)."""
    return hidden.float() @ (weight[yes] - weight[no])


def answer_loss(margin: Tensor, is_yes: Tensor) -> Tensor:
    """Return the mean cross-entropy between no and yes, given margins (B,) and right answers (B,)."""
    return F.softplus(torch.where(is_yes, -margin, margin)).mean()
