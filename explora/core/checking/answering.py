"""Checks of code that all methods share: losses, logits, sampling and decoding, against plain formulas."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from explora.core.checking.check import check
from explora.core.checking.differences import largest_difference
from explora.core.checking.subject import dense
from explora.core.generate.decode import Prompt, stream
from explora.core.generate.sampling import SamplingConfig, draw, row_generators
from explora.core.model.cross_entropy import rows_at_once, tied_cross_entropy, token_losses
from explora.core.model.gpt2 import GPT2

COMBINED = SamplingConfig(temperature=0.7, top_k=12, top_p=0.9, repetition_penalty=1.2)
SAMPLED = (
    SamplingConfig(),
    SamplingConfig(repetition_penalty=1.5),  # alone, because the other settings drop the penalised tokens
    SamplingConfig(top_k=5),
    SamplingConfig(temperature=1.5, top_p=0.8),
    COMBINED,
)
DRAWS, VOCABULARY = 256, 50
PROMPT_LENGTHS, NEW_TOKENS = (5, 9, 3), (4, 8, 6)  # rows are padded, and leave the batch at different steps


@check(
    "The loss in chunks, and its gradients, equal those of all logits at once.",
    name="loss",
    tolerance=1e-4,
    reason="fp32 sums in another order differ by about 1e-6",
    meaning="language modelling minimises, and perplexity reports, another quantity than the cross-entropy",
    remedy="do not use results of tasks that write text",
)
def chunked_loss(base: GPT2) -> float:
    """Return the largest relative difference of losses and gradients, for one full chunk and a short one."""
    weight, draws = base.wte.weight, torch.Generator().manual_seed(0)
    count = rows_at_once(weight) + 5
    hidden = torch.randn(count, weight.shape[1], generator=draws, requires_grad=True)
    targets = torch.randint(len(weight), (count,), generator=draws)
    chunked, plain = tied_cross_entropy(hidden, weight, targets), _plain_losses(hidden, weight, targets)
    single = token_losses(hidden, weight, targets)
    # A step divides the sum by the number of items, so the incoming gradient is not 1.
    found = {"losses": single, "loss": chunked, **_gradients(chunked / count, hidden, weight)}
    expected = {"losses": plain, "loss": plain.sum(), **_gradients(plain.mean(), hidden, weight)}
    return largest_difference(found, expected)


def _plain_losses(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(hidden @ weight.t(), targets, reduction="none")


@check(
    "Logits of a few words, and their gradients, equal those of the whole vocabulary.",
    name="rows",
    tolerance=1e-4,
    reason="fp32 sums in another order differ by about 1e-6",
    meaning="paraphrase compares other words than the label words",
    remedy="do not use results of the paraphrase task",
)
def pruned_rows(base: GPT2) -> float:
    """Return the largest relative difference of logits and gradients."""
    weight, draws = base.wte.weight, torch.Generator().manual_seed(0)
    hidden = torch.randn(8, weight.shape[1], generator=draws, requires_grad=True)
    rows = torch.randperm(len(weight), generator=draws)[:5]
    few, plain = base.logits(hidden, rows), (hidden @ weight.t())[:, rows]
    found = {"logits": few, **_gradients(few.square().sum(), hidden, weight)}
    expected = {"logits": plain, **_gradients(plain.square().sum(), hidden, weight)}
    return largest_difference(found, expected)


def _gradients(loss: Tensor, hidden: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Return the gradients of hidden states and embedding; a sparse gradient is made dense."""
    found = torch.autograd.grad(loss, (hidden, weight))
    return {name: dense(value) for name, value in zip(("of hidden", "of weight"), found, strict=True)}


@check(
    "Sampling chooses the same tokens as the plain formulas with the same random numbers.",
    name="sampling",
    tolerance=0,
    reason="tokens are counted",
    meaning="generate draws from another distribution than its options describe",
    remedy="use --greedy",
)
def sampling(base: GPT2) -> float:
    """Return how many of DRAWS tokens differ, over all settings of SAMPLED."""
    draws = torch.Generator().manual_seed(0)
    # Mostly negative, because a penalty treats negative and positive logits differently.
    logits = 2 * torch.randn(DRAWS, VOCABULARY, generator=draws) - 3
    seen = torch.rand(DRAWS, VOCABULARY, generator=draws) < 0.3
    different = 0
    for config in SAMPLED:
        found = draw(logits, config, _generators(DRAWS), seen).tolist()
        rows = zip(logits, _generators(DRAWS), seen, strict=True)
        different += sum(token != _plain_draw(*row, config) for token, row in zip(found, rows, strict=True))
    return different


def _generators(count: int) -> list[torch.Generator]:
    return row_generators(range(count), torch.device("cpu"))


def _plain_draw(logits: Tensor, generator: torch.Generator, seen: Tensor, config: SamplingConfig) -> int:
    """Choose a token from logits (V,) in fp64, step by step: penalty, temperature, top-k, top-p.

    The token with the shortest exponential waiting time is chosen, which is a sample of the distribution.
    """
    scores, penalty = logits.double(), config.repetition_penalty
    scores[seen] = torch.where(scores[seen] < 0, scores[seen] * penalty, scores[seen] / penalty)
    ranked, tokens = (scores / config.temperature).sort(descending=True)
    kept = ranked[: config.top_k].softmax(dim=0)
    if config.top_p is not None:
        kept = kept[: int((kept.cumsum(dim=0) < config.top_p).sum()) + 1]
    uniform = torch.empty(len(scores), dtype=torch.float64).uniform_(generator=generator)
    waiting = -uniform.log()[tokens[: len(kept)]] / kept
    return int(tokens[waiting.argmin()])


@check(
    "Decoding with the key-value cache writes the same tokens as decoding without a cache.",
    name="decoding",
    tolerance=0,
    reason="tokens are counted",
    meaning="generated text, and its scores, depend on the batch or on the cache",
    remedy="do not use generated text",
)
def decoding(base: GPT2) -> float:
    """Return how many prompts, read in one batch, have another continuation than without a cache."""
    draws = torch.Generator().manual_seed(0)
    vocabulary = base.shape.vocab_size
    ids = [torch.randint(vocabulary, (size,), generator=draws).tolist() for size in PROMPT_LENGTHS]
    prompts = [
        Prompt(ids=each, seed=seed, lines=lines)
        for seed, (each, lines) in enumerate(zip(ids, NEW_TOKENS, strict=True))
    ]
    eos = vocabulary - 1
    written: list[list[int]] = [[] for _ in prompts]
    # Each token counts as a line break, so each row ends after its own number of tokens.
    for step in stream(base, prompts, COMBINED, max(NEW_TOKENS), eos, lambda token: 1):
        for row, token in step:
            written[row].append(token)
    expected = [_plain_continuation(base, prompt, eos) for prompt in prompts]
    return sum(found != wanted for found, wanted in zip(written, expected, strict=True))


@torch.no_grad()
def _plain_continuation(base: GPT2, prompt: Prompt, eos: int) -> list[int]:
    """Continue a prompt without a cache; lines are counted in tokens, and `eos` is never chosen."""
    (generator,) = row_generators([prompt.seed], base.device)
    ids: list[int] = [*prompt.ids]
    for _ in range(prompt.lines or 0):
        logits = base.wte.weight @ base(torch.tensor([ids]))[0, -1]
        logits[eos] = -torch.inf
        ids.append(_plain_draw(logits, generator, _marked(ids, len(logits)), COMBINED))
    return ids[len(prompt.ids) :]


def _marked(ids: Sequence[int], size: int) -> Tensor:
    seen = torch.zeros(size, dtype=torch.bool)
    seen[list(ids)] = True
    return seen
