"""Decoding with a key-value cache: read the prompts once, then generate one token per row and step.

Finished rows leave the batch. The tokens of a row depend only on its own prompt and seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from explora.core.base.tokenizer import Tokenizer
from explora.core.data.batching import in_length_order, pad
from explora.core.generate.sampling import SamplingConfig, draw, row_generators
from explora.core.model.gpt2 import GPT2
from explora.core.model.kv_cache import KeyValueCache
from explora.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """Token ids to continue, the random seed, and the number of line breaks after which to stop."""

    ids: Sequence[int]
    seed: int
    lines: int | None = None


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """The new tokens of a prompt, without a final end-of-text token."""

    ids: list[int]


class LineCounter:
    """Counter of the line breaks in a token, with a cache."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, int] = {}

    def __call__(self, token: int) -> int:
        """Return the number of line breaks in `token`."""
        if token not in self._known:
            self._known[token] = self._tokenizer.decode([token]).count("\n")
        return self._known[token]


def check_prompt(ids: Sequence[int], context: int, file: str = "prompt", line: int = 0) -> None:
    """Raise DataError for a prompt that is empty or fills the model's context."""
    if not ids:
        raise DataError(
            "the prompt is empty, and the base has no start token",
            "give at least one word",
            file=file,
            line=line,
        )
    if len(ids) >= context:
        raise DataError(
            f"the prompt has {len(ids)} tokens, and this model reads at most {context - 1} before it writes",
            "shorten the prompt",
            file=file,
            line=line,
        )


@torch.no_grad()
def stream(
    model: GPT2,
    prompts: Sequence[Prompt],
    sampling: SamplingConfig,
    max_new_tokens: int,
    eos: int,
    line_breaks: Callable[[int], int],
) -> Iterator[list[tuple[int, int]]]:
    """Yield the (row, token) pairs of all unfinished prompts, step by step.

    A row with a number of line breaks ends after these, any other row at `eos` (not yielded). Every row ends
    at `max_new_tokens` or at the end of the model's context.
    """
    lengths = [len(prompt.ids) for prompt in prompts]
    capacity = min(model.shape.n_positions, max(lengths) + max_new_tokens)
    cache = KeyValueCache(model.shape, len(prompts), capacity, _cache_dtype(model), model.device)
    input_ids = pad([prompt.ids for prompt in prompts], eos).to(model.device)
    hidden = model(input_ids, torch.tensor(lengths, device=model.device) - 1, cache)
    cache.advance(lengths)
    seen = _seen(prompts, model) if sampling.repetition_penalty != 1 else None
    generators = row_generators([prompt.seed for prompt in prompts], model.device)
    by_lines = torch.tensor([prompt.lines is not None for prompt in prompts], device=model.device)
    alive, lines = list(range(len(prompts))), [prompt.lines for prompt in prompts]
    for step in range(1, max_new_tokens + 1):
        logits = model.logits(hidden[:, 0])
        logits[:, eos].masked_fill_(by_lines, -torch.inf)
        drawn = draw(logits, sampling, [generators[row] for row in alive], seen)
        tokens = drawn.tolist()
        yield [(row, token) for row, token in zip(alive, tokens, strict=True) if token != eos]
        kept = []
        for place, (row, token) in enumerate(zip(alive, tokens, strict=True)):
            left = lines[row]
            if left is not None:
                left = lines[row] = left - line_breaks(token)
            room = cache.read[place] < model.shape.n_positions
            if token != eos and room and (left is None or left > 0):
                kept.append(place)
        if not kept or step == max_new_tokens:
            return
        if len(kept) < len(alive):
            cache.keep(kept)
            rows = torch.tensor(kept, device=model.device)
            drawn, by_lines, alive = drawn[rows], by_lines[rows], [alive[place] for place in kept]
            seen = seen[rows] if seen is not None else None
        if seen is not None:
            seen.scatter_(1, drawn[:, None], True)
        hidden = model(drawn[:, None], None, cache)
        cache.advance([read + 1 for read in cache.read])


def _cache_dtype(model: GPT2) -> torch.dtype:
    """Return the dtype of the cache; fp32 is up to four times as fast as bf16 on a CPU (docs/LOG.md)."""
    return torch.float32 if model.device.type == "cpu" else model.compute_dtype


def _seen(prompts: Sequence[Prompt], model: GPT2) -> torch.Tensor:
    """Return a mask (B, V) of the tokens of each prompt."""
    seen = torch.zeros(len(prompts), model.shape.vocab_size, dtype=torch.bool, device=model.device)
    for row, prompt in enumerate(prompts):
        seen[row, torch.tensor(prompt.ids, device=model.device)] = True
    return seen


def generate(
    model: GPT2,
    prompts: Sequence[Prompt],
    sampling: SamplingConfig,
    max_new_tokens: int,
    tokenizer: Tokenizer,
    batch_size: int = 32,
) -> list[Continuation]:
    """Continue every prompt, in batches of similar length; return the results in the given order."""
    continuations = [Continuation(ids=[]) for _ in prompts]
    counter = LineCounter(tokenizer)
    for rows in in_length_order([len(prompt.ids) for prompt in prompts], batch_size):
        batch = [prompts[row] for row in rows]
        for step in stream(model, batch, sampling, max_new_tokens, tokenizer.eos, counter):
            for place, token in step:
                continuations[rows[place]].ids.append(token)
    return continuations
