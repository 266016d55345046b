"""Decoding against transformers' generate, batches against single prompts, and every way to stop.

Every comparison that can be fooled has a twin that plants a bug and must fail.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from explora.core.base.tokenizer import Tokenizer, load_tokenizer
from explora.core.config.registry import Shape
from explora.core.generate import decode as generation
from explora.core.generate.decode import LineCounter, Prompt, check_prompt, generate, stream
from explora.core.generate.sampling import SamplingConfig
from explora.core.model.gpt2 import GPT2
from explora.core.model.kv_cache import KeyValueCache
from explora.errors import DataError
from tests.tiny_models import VOCABULARY, randomise

SHAPE = Shape(n_layer=3, n_head=2, n_embd=24, n_positions=48, vocab_size=VOCABULARY)
GREEDY = SamplingConfig(greedy=True)
WAYS = {
    "greedy": GREEDY,
    "greedy, penalised": SamplingConfig(greedy=True, repetition_penalty=1.3),
    "sampled": SamplingConfig(),
    "filtered": SamplingConfig(temperature=0.7, top_k=20, top_p=0.8, repetition_penalty=1.2),
}


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> Tokenizer:
    return load_tokenizer(tiny_base)


@pytest.fixture(scope="module")
def model() -> GPT2:
    """A model whose logits lie apart, and change much with what was read and where."""
    model = randomise(GPT2(SHAPE), seed=1, scale=2).eval()
    with torch.no_grad():
        model.wte.weight.mul_(12)
        model.wpe.weight.mul_(40)
    return model


def random_prompts(lengths: Sequence[int], lines: int | None = None) -> list[Prompt]:
    draw = random.Random(7)
    return [
        Prompt(ids=[draw.randrange(VOCABULARY - 1) for _ in range(length)], seed=100 + i, lines=lines)
        for i, length in enumerate(lengths)
    ]


def no_breaks(token: int) -> int:
    return 0


def continued(
    model: GPT2,
    prompts: Sequence[Prompt],
    way: SamplingConfig = GREEDY,
    new: int = 20,
    eos: int = VOCABULARY - 1,
    line_breaks: Callable[[int], int] = no_breaks,
) -> list[list[int]]:
    """All prompts in one batch, from the stream."""
    found: list[list[int]] = [[] for _ in prompts]
    for step in stream(model, prompts, way, new, eos, line_breaks):
        for row, token in step:
            found[row].append(token)
    return found


def one_by_one(model: GPT2, prompts: Sequence[Prompt], *arguments: object) -> list[list[int]]:
    return [continued(model, [prompt], *arguments)[0] for prompt in prompts]  # type: ignore[arg-type]


# --- against transformers -------------------------------------------------------------------------


def their_tokens(model: GPT2, prompt: Prompt, new: int, eos: int = VOCABULARY - 1) -> list[int]:
    theirs = GPT2LMHeadModel(
        GPT2Config(**vars(model.shape), bos_token_id=eos, eos_token_id=eos, pad_token_id=eos)
    ).eval()
    theirs.transformer.load_state_dict(model.state_dict())
    ids = torch.tensor([prompt.ids])
    mask = torch.ones_like(ids)
    found = theirs.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=new)
    new_ids: list[int] = found[0, len(prompt.ids) :].tolist()
    return new_ids[: new_ids.index(eos)] if eos in new_ids else new_ids


@pytest.mark.parametrize("length", [1, 2, 7, 30, 47])
def test_greedy_tokens_are_those_of_transformers(model: GPT2, length: int) -> None:
    (prompt,) = random_prompts([length])
    new = min(16, SHAPE.n_positions - length)
    expected = their_tokens(model, prompt, new)
    assert continued(model, [prompt], new=new) == [expected]
    assert len(expected) == new


def test_a_batch_of_prompts_of_different_lengths_is_as_transformers_one_by_one(model: GPT2) -> None:
    prompts = random_prompts([9, 1, 20, 4, 13])
    expected = [their_tokens(model, prompt, 12) for prompt in prompts]
    assert continued(model, prompts, new=12) == expected
    assert len({tuple(tokens) for tokens in expected}) == len(prompts)
    assert all(len(set(tokens)) > 3 for tokens in expected)  # no loop that would hide a wrong position


def test_rows_end_where_transformers_ends_them(model: GPT2) -> None:
    """With a token for end-of-text that the rows come to at different steps."""
    prompts = random_prompts([9, 1, 20, 4, 13])
    free = continued(model, prompts, new=12)
    for eos in {free[0][3], free[1][6], free[2][0]}:
        expected = [their_tokens(model, prompt, 12, eos) for prompt in prompts]
        found = continued(model, prompts, new=12, eos=eos)
        assert found == expected
        assert len({len(tokens) for tokens in found}) > 1


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_cache_that_is_off_by_one_is_seen(model: GPT2, monkeypatch: pytest.MonkeyPatch, shift: int) -> None:
    """The first token after a prompt is taken to stand one place early or late."""
    prompts = random_prompts([9, 7])
    expected = [their_tokens(model, prompt, 12) for prompt in prompts]
    advance = KeyValueCache.advance
    monkeypatch.setattr(
        KeyValueCache,
        "advance",
        lambda cache, n: advance(cache, [read + shift for read in n] if cache.span == 0 else n),
    )
    monkeypatch.setattr(
        generation,
        "KeyValueCache",
        lambda shape, rows, _, *rest: KeyValueCache(shape, rows, SHAPE.n_positions, *rest),
    )
    found = continued(model, prompts, new=12)
    assert [tokens[0] for tokens in found] == [tokens[0] for tokens in expected]
    assert all(ours != theirs for ours, theirs in zip(found, expected, strict=True))


# --- a row depends on its own prompt and seed alone -----------------------------------------------

MIXED = [3, 17, 3, 1, 30, 17, 8, 9]


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_gives_what_its_prompts_give_one_by_one(model: GPT2, way: str) -> None:
    prompts = random_prompts(MIXED)
    expected = one_by_one(model, prompts, WAYS[way], 15)
    assert continued(model, prompts, WAYS[way], 15) == expected
    assert continued(model, prompts[::-1], WAYS[way], 15) == expected[::-1]


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_whose_rows_end_at_different_steps_does_too(model: GPT2, way: str) -> None:
    prompts = random_prompts(MIXED)
    (eos,) = {tokens[4] for tokens in one_by_one(model, prompts[:1], WAYS[way], 15)}
    expected = one_by_one(model, prompts, WAYS[way], 15, eos)
    assert continued(model, prompts, WAYS[way], 15, eos) == expected
    limited = [Prompt(ids=p.ids, seed=p.seed, lines=1 + i % 4) for i, p in enumerate(prompts)]
    breaking = (lambda token: int(token % 5 == 0),)
    expected = one_by_one(model, limited, WAYS[way], 15, eos, *breaking)
    assert continued(model, limited, WAYS[way], 15, eos, *breaking) == expected
    assert len({len(tokens) for tokens in expected}) > 2


def shared_generator(seeds: Sequence[int], device: torch.device) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seeds[0])] * len(seeds)


@pytest.mark.parametrize("bug", ["one generator", "unmasked pads", "rows mixed up"])
def test_a_row_that_depends_on_others_is_seen(model: GPT2, monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    prompts = random_prompts(MIXED)
    eos = one_by_one(model, prompts[:1], WAYS["sampled"], 15)[0][4]
    expected = one_by_one(model, prompts, WAYS["sampled"], 15, eos)
    if bug == "one generator":
        monkeypatch.setattr(generation, "row_generators", shared_generator)
    if bug == "unmasked pads":
        monkeypatch.setattr(KeyValueCache, "mask", lambda cache: None)
    if bug == "rows mixed up":
        keep = KeyValueCache.keep
        monkeypatch.setattr(KeyValueCache, "keep", lambda cache, rows: keep(cache, rows[::-1]))
    assert continued(model, prompts, WAYS["sampled"], 15, eos) != expected


def test_the_seed_decides_what_is_drawn(model: GPT2) -> None:
    (prompt,) = random_prompts([5])
    again = [Prompt(ids=prompt.ids, seed=seed) for seed in (1, 2, 1, 3)]
    first, second, third, fourth = continued(model, again, SamplingConfig())
    assert first == third
    assert len({tuple(first), tuple(second), tuple(fourth)}) == 3


def test_the_repetition_penalty_looks_at_prompt_and_continuation(model: GPT2) -> None:
    """Against the definition, every logit computed anew without a cache."""
    (prompt,) = random_prompts([6])
    way = WAYS["greedy, penalised"]
    ids = list(prompt.ids)
    with torch.no_grad():
        for _ in range(15):
            logits = model.logits(model(torch.tensor([ids]))[0, -1])
            seen = torch.tensor(sorted(set(ids)))
            logits[seen] = torch.where(logits[seen] < 0, logits[seen] * 1.3, logits[seen] / 1.3)
            ids.append(int(logits.argmax()))
    assert continued(model, [prompt], way, 15) == [ids[6:]]
    assert continued(model, [prompt], GREEDY, 15) != [ids[6:]]


# --- where it stops -------------------------------------------------------------------------------


def saying(logits: dict[int, float]) -> GPT2:
    """A model whose logits are these, whatever it reads, and -50 for all other tokens."""
    model = randomise(GPT2(SHAPE)).eval()
    with torch.no_grad():
        model.ln_f.weight.zero_()
        model.ln_f.bias.zero_()
        model.ln_f.bias[0] = 1
        model.wte.weight[:, 0] = -50
        for token, logit in logits.items():
            model.wte.weight[token, 0] = logit
    return model


EOS, WORD, BREAK, TWO_BREAKS = VOCABULARY - 1, 5, 6, 7


def breaks(token: int) -> int:
    return {BREAK: 1, TWO_BREAKS: 2}.get(token, 0)


def stopped(logits: dict[int, float], lines: int | None, new: int = 9, length: int = 3) -> list[int]:
    (found,) = continued(saying(logits), random_prompts([length], lines), GREEDY, new, EOS, breaks)
    return found


def test_end_of_text_ends_a_row_and_is_not_in_it() -> None:
    assert stopped({EOS: 2.0, WORD: 1.0}, lines=None) == []


def test_end_of_text_is_forbidden_while_lines_are_owed() -> None:
    assert stopped({EOS: 2.0, BREAK: 1.0}, lines=4) == [BREAK] * 4
    assert stopped({EOS: 2.0, WORD: 1.0}, lines=1) == [WORD] * 9


def test_a_row_ends_with_its_lines() -> None:
    assert stopped({BREAK: 1.0}, lines=1) == [BREAK]
    assert stopped({TWO_BREAKS: 1.0}, lines=3) == [TWO_BREAKS] * 2
    assert stopped({BREAK: 1.0}, lines=None) == [BREAK] * 9


def test_a_row_ends_at_the_most_new_tokens() -> None:
    assert stopped({WORD: 1.0}, lines=None, new=1) == [WORD]
    assert stopped({WORD: 1.0}, lines=None, new=20) == [WORD] * 20


def test_a_row_ends_with_the_context(model: GPT2) -> None:
    """The last token is drawn when the context is full; rows that still have room go on."""
    assert stopped({WORD: 1.0}, lines=None, new=100, length=40) == [WORD] * 9
    prompts = random_prompts([46, 47, 30, 48])
    found = continued(model, prompts, GREEDY, 100)
    assert [len(tokens) for tokens in found] == [3, 2, 19, 1]
    assert found == one_by_one(model, prompts, GREEDY, 100)


def test_a_token_costs_one_pass_and_the_prompt_one(monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[int] = []
    forward = GPT2.forward
    monkeypatch.setattr(
        GPT2, "forward", lambda self, ids, *rest: widths.append(ids.shape[1]) or forward(self, ids, *rest)
    )
    assert stopped({WORD: 1.0}, lines=None, new=6, length=11) == [WORD] * 6
    assert widths == [11, 1, 1, 1, 1, 1]


def test_finished_rows_leave_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    forward = GPT2.forward
    monkeypatch.setattr(
        GPT2, "forward", lambda self, ids, *rest: rows.append(len(ids)) or forward(self, ids, *rest)
    )
    prompts = [Prompt(ids=[1, 2], seed=0, lines=lines) for lines in (1, 3, 3, 5)]
    found = continued(saying({BREAK: 1.0}), prompts, GREEDY, 9, EOS, breaks)
    assert [len(tokens) for tokens in found] == [1, 3, 3, 5]
    assert rows == [4, 3, 3, 1, 1]


# --- many prompts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("way", ["greedy", "filtered"])
def test_many_prompts_keep_their_order_whatever_the_batches(
    model: GPT2, tokenizer: Tokenizer, way: str, batch_size: int
) -> None:
    prompts = random_prompts(MIXED, lines=6)
    streamed = one_by_one(model, prompts, WAYS[way], 15, tokenizer.eos, LineCounter(tokenizer))
    found = generate(model, prompts, WAYS[way], 15, tokenizer, batch_size)
    assert [item.ids for item in found] == streamed


def test_no_prompts_are_no_continuations(model: GPT2, tokenizer: Tokenizer) -> None:
    assert generate(model, [], GREEDY, 5, tokenizer) == []


def test_line_breaks_are_counted_in_every_token(tokenizer: Tokenizer) -> None:
    count = LineCounter(tokenizer)
    counts = [count(token) for token in range(tokenizer.vocab_size)]
    assert counts == [tokenizer.decode([token]).count("\n") for token in range(tokenizer.vocab_size)]
    ids = tokenizer.encode("two\nlines\n\nand more\r\n")
    assert sum(map(count, ids)) == 4
    assert sum(counts) > 0


def test_a_prompt_must_leave_room() -> None:
    check_prompt([1] * 47, SHAPE.n_positions)
    with pytest.raises(DataError, match="has 48 tokens, and this model reads at most 47") as refusal:
        check_prompt([1] * 48, SHAPE.n_positions, "poems.txt", 7)
    assert (refusal.value.file, refusal.value.line) == ("poems.txt", 7)
    with pytest.raises(DataError, match="empty"):
        check_prompt([], SHAPE.n_positions)
