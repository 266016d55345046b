"""Sampling of the next token: pure functions on logits (B, V), in the order of transformers.

The order is penalty, temperature, top-k, top-p, draw. Filtered tokens get the logit -inf.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from explora.errors import UsageError

# Below this value, a float32 logit divided by the temperature may overflow; sampling is greedy long before.
MIN_TEMPERATURE = 1e-6

# Number of most probable tokens that top-p examines before it sorts the whole vocabulary.
MOST_PROBABLE = 1024


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """Settings for choosing the next token; the defaults sample from the model's own distribution."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0
    greedy: bool = False

    def __post_init__(self) -> None:
        if not MIN_TEMPERATURE <= self.temperature < math.inf:
            raise UsageError(
                f"temperature must be a positive number, not {self.temperature!r}",
                "use --greedy to choose the most probable token each time",
            )
        if self.top_k is not None and self.top_k < 1:
            raise UsageError(
                f"top_k must be at least 1, not {self.top_k!r}", "leave --top-k out to keep every token"
            )
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UsageError(
                f"top_p must be in (0, 1], not {self.top_p!r}", "leave --top-p out to keep every token"
            )
        if not 0 < self.repetition_penalty < math.inf:
            raise UsageError(
                f"repetition_penalty must be a positive number, not {self.repetition_penalty!r}",
                "1 turns it off; 1.1 already discourages repetition",
            )


def row_generators(seeds: Sequence[int], device: torch.device) -> list[torch.Generator]:
    """Return a random generator for each row of a batch, so that rows do not influence each other.

    On a GPU they are GPU generators: drawing noise for a large batch on the host takes longer than a step.
    """
    home = device if device.type == "cuda" else "cpu"
    return [torch.Generator(home).manual_seed(seed) for seed in seeds]


def draw(
    logits: Tensor,
    config: SamplingConfig,
    generators: Sequence[torch.Generator],
    seen: Tensor | None = None,
) -> Tensor:
    """Choose the next token of each row: logits (B, V) give ids (B,).

    `generators` has one generator per row, all on one device. `seen` (B, V), bool, marks the tokens of each
    row's context, for the repetition penalty only. A greedy choice does not use the generators.
    """
    logits = logits.float()
    if seen is not None:
        logits = penalise_repetition(logits, seen, config.repetition_penalty)
    if config.greedy:
        return logits.argmax(dim=-1)
    logits = logits / config.temperature
    if config.top_k is not None:
        logits = keep_top_k(logits, config.top_k)
    if config.top_p is not None:
        logits = keep_top_p(logits, config.top_p)
    return (logits + _gumbel_noise(logits, generators)).argmax(dim=-1)


def penalise_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make seen tokens less likely, however often they occurred (Keskar et al. 2019, section 4.1).

    A positive logit is divided by the penalty and a negative one multiplied, so that both decrease.
    """
    penalised = torch.where(logits < 0, logits * penalty, logits / penalty)
    return torch.where(seen, penalised, logits)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k most probable tokens, and ties with the k-th (Fan et al. 2018)."""
    kth = logits.topk(min(k, logits.shape[-1]), dim=-1).values[:, -1:]  # (B, 1)
    return logits.masked_fill(logits < kth, -math.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set of most probable tokens with a sum of at least p (Holtzman et al. 2020).

    At least one token stays. Among tokens that tie at the border, those with lower ids are kept.
    """
    if p >= 1:
        return logits
    probabilities = logits.softmax(dim=-1, dtype=torch.float64)
    largest = _largest_holding(probabilities, p)  # (B, n)
    needed = largest.cumsum(dim=-1) - largest < p
    border = largest.masked_fill(~needed, math.inf).amin(dim=-1, keepdim=True)
    needed_ties = (needed & (largest == border)).sum(dim=-1, keepdim=True)
    ties = probabilities == border
    kept = (probabilities > border) | (ties & (ties.cumsum(dim=-1) <= needed_ties))
    return logits.masked_fill(~kept, -math.inf)


def _largest_holding(probabilities: Tensor, p: float) -> Tensor:
    """Return the largest probabilities of each row, descending (B, n), with a sum of at least p.

    Sorting a whole vocabulary takes several times as long as finding its top, which is nearly always enough.
    """
    head = probabilities.topk(min(MOST_PROBABLE, probabilities.shape[-1]), dim=-1).values
    if bool((head.sum(dim=-1) >= p).all()):
        return head
    return probabilities.sort(dim=-1, descending=True).values


def _gumbel_noise(logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Return noise (B, V) such that argmax of logits + noise samples softmax(logits) (Maddison et al. 2014).

    Rounding differences between batch sizes change such a sample far less often than one by the cumulative
    distribution.
    """
    uniform = torch.empty(logits.shape, dtype=torch.float64, device=generators[0].device)
    for row, generator in zip(uniform, generators, strict=True):
        row.uniform_(generator=generator)
    return uniform.log_().neg_().log_().neg_().to(logits.device, logits.dtype)
