"""GPT-2 against transformers, and the model's shortcuts against its own full forward.

Every comparison that can be fooled has a twin that plants a bug and must fail.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from explora.core.config.registry import MODELS, Shape
from explora.core.model import gpt2 as model_module
from explora.core.model.attention import KEPT_UP_TO, attend, causal_attention
from explora.core.model.cross_entropy import tied_cross_entropy
from explora.core.model.gpt2 import GPT2, MLP, Block
from explora.core.model.kv_cache import KeyValueCache
from tests.kept_tensors import kept_bytes
from tests.tiny_models import make_method, randomise

TINY = Shape(n_layer=3, n_head=2, n_embd=16, n_positions=24, vocab_size=41)
ALL_TARGETS = ("query", "key", "value", "attn-out", "mlp-up", "mlp-down")


def random_configurations(count: int) -> list[tuple[Shape, int, int]]:
    """Shapes with a batch size and a length, from one token to the whole context."""
    draw = random.Random(11711)
    found = []
    for _ in range(count):
        heads = draw.randint(1, 4)
        shape = Shape(
            n_layer=draw.randint(1, 4),
            n_head=heads,
            n_embd=heads * draw.choice((4, 8, 12, 16)),
            n_positions=draw.randint(8, 40),
            vocab_size=draw.randint(11, 97),
        )
        found.append((shape, draw.randint(1, 4), draw.randint(1, shape.n_positions)))
    return found


CONFIGURATIONS = random_configurations(20)


def random_ids(shape: Shape, rows: int, length: int) -> Tensor:
    return torch.randint(shape.vocab_size, (rows, length), generator=torch.Generator().manual_seed(7))


def oracle(model: GPT2) -> GPT2LMHeadModel:
    """The same weights in transformers."""
    with torch.device("meta"):
        theirs = GPT2LMHeadModel(GPT2Config(**vars(model.shape)))
    weights = {f"transformer.{name}": value.detach() for name, value in model.state_dict().items()}
    weights["lm_head.weight"] = weights["transformer.wte.weight"]
    theirs.load_state_dict(weights, assign=True)
    theirs.tie_weights()
    return theirs.eval()


@torch.no_grad()
def difference(model: GPT2, theirs: GPT2LMHeadModel, rows: int, length: int) -> float:
    """The largest difference of fp32 logits on random tokens."""
    ids = random_ids(model.shape, rows, length)
    ours = model.logits(model(ids))
    return float((ours - theirs(ids).logits).abs().max())


def fresh(shape: Shape = TINY, dropout: float = 0.0) -> GPT2:
    return randomise(GPT2(shape, dropout)).eval()


# --- against transformers -------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "rows", "length"), CONFIGURATIONS)
def test_the_logits_are_those_of_transformers(shape: Shape, rows: int, length: int) -> None:
    model = fresh(shape)
    assert difference(model, oracle(model), rows, length) <= 1e-5


def test_the_logits_at_the_124m_shape_are_those_of_transformers() -> None:
    with torch.device("meta"):
        model = GPT2(MODELS["gpt2"].shape)
    model = randomise(model.to_empty(device="cpu")).eval()
    assert difference(model, oracle(model), rows=2, length=12) <= 1e-4


def test_the_gradients_are_those_of_transformers() -> None:
    model = fresh()
    theirs = oracle(copy.deepcopy(model))
    theirs.requires_grad_(True)
    ids = random_ids(TINY, 3, 20)
    loss = tied_cross_entropy(model(ids)[:, :-1].flatten(0, 1), model.wte.weight, ids[:, 1:].flatten()) / 57
    loss.backward()
    theirs_loss = theirs(ids, labels=ids).loss
    theirs_loss.backward()
    torch.testing.assert_close(loss, theirs_loss, rtol=0, atol=1e-6)
    expected = {name.removeprefix("transformer."): value.grad for name, value in theirs.named_parameters()}
    for name, value in model.named_parameters():
        torch.testing.assert_close(value.grad, expected[name], rtol=1e-4, atol=1e-6, msg=name)


def by_torch(projected: Tensor, heads: int, mask: Tensor | None, scale: float | None = None) -> Tensor:
    """Attention of (B, T, 3 C) by torch's own kernel, causal without a mask: (B, T, C)."""
    batch, length, width = projected.shape
    query, key, value = projected.view(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
    found = F.scaled_dot_product_attention(query, key, value, mask, is_causal=mask is None, scale=scale)
    return found.transpose(1, 2).reshape(batch, length, width // 3)


# Planted bugs: each takes the model and a way to patch, and makes it compute something else.


def exact_gelu(model: GPT2, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MLP, "forward", lambda self, x: self.c_proj(F.gelu(self.c_fc(x))))


def sees_one_ahead(model: GPT2, patch: pytest.MonkeyPatch) -> None:
    def attention_ahead(projected: Tensor, heads: int) -> Tensor:
        length = projected.shape[1]
        return by_torch(projected, heads, torch.ones(length, length, dtype=torch.bool).tril(1))

    patch.setattr(model_module, "causal_attention", attention_ahead)


def other_epsilon(model: GPT2, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(model_module, "LAYER_NORM_EPSILON", 1e-6)


def post_norm(model: GPT2, patch: pytest.MonkeyPatch) -> None:
    def forward(self: Block, x: Tensor, positions: None, cache: None) -> Tensor:
        x = self.ln_1(x + self.attn(x, positions, cache))
        return self.ln_2(x + self.mlp(x))

    patch.setattr(Block, "forward", forward)


def transposed_projection(model: GPT2, patch: pytest.MonkeyPatch) -> None:
    for block in model.h:
        weight = block.attn.c_proj.weight
        weight.data = weight.data.t().contiguous()


def no_scale(model: GPT2, patch: pytest.MonkeyPatch) -> None:
    def attention_unscaled(projected: Tensor, heads: int) -> Tensor:
        return by_torch(projected, heads, None, scale=1.0)

    patch.setattr(model_module, "causal_attention", attention_unscaled)


def shifted_positions(model: GPT2, patch: pytest.MonkeyPatch) -> None:
    model.wpe.weight.data = model.wpe.weight.data.roll(-1, dims=0)


def mixed_up_heads(model: GPT2, patch: pytest.MonkeyPatch) -> None:
    for block in model.h:
        key, value = block.attn.c_attn.weight.data.chunk(3, dim=1)[1:]
        key[:], value[:] = value.clone(), key.clone()


BUGS = [
    exact_gelu,
    sees_one_ahead,
    other_epsilon,
    post_norm,
    transposed_projection,
    no_scale,
    shifted_positions,
    mixed_up_heads,
]


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_fails_the_comparison(
    bug: Callable[[GPT2, pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fresh()
    theirs = oracle(copy.deepcopy(model))
    assert difference(model, theirs, rows=2, length=20) <= 1e-5
    bug(model, monkeypatch)
    assert difference(model, theirs, rows=2, length=20) > 1e-4


# --- attention ------------------------------------------------------------------------------------


def attention_and_gradient(attention: Callable[[Tensor], Tensor], projected: Tensor) -> tuple[Tensor, Tensor]:
    projected = projected.detach().requires_grad_()
    found = attention(projected)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (found * weights.to(found.dtype)).sum().backward()
    assert projected.grad is not None
    return found.detach(), projected.grad


@pytest.mark.parametrize("length", [1, 2, KEPT_UP_TO, KEPT_UP_TO + 1])
def test_plain_attention_and_its_gradient_are_those_of_torch(length: int) -> None:
    projected = torch.randn(2, length, 3 * 24, dtype=torch.float64)
    found = attention_and_gradient(lambda x: causal_attention(x, 3), projected)
    expected = attention_and_gradient(lambda x: by_torch(x, 3, None), projected)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rows", [slice(0, 24), slice(24, 48), slice(48, 72)])
def test_a_wrong_gradient_of_query_key_or_value_would_be_seen(rows: slice) -> None:
    projected = torch.randn(2, 9, 3 * 24, dtype=torch.float64)
    found, gradient = attention_and_gradient(lambda x: causal_attention(x, 3), projected)
    gradient[..., rows] *= 1.01
    expected = attention_and_gradient(lambda x: by_torch(x, 3, None), projected)
    with pytest.raises(AssertionError):
        torch.testing.assert_close((found, gradient), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("length", [1, 2, 31, 256, 513])
def test_attention_in_bf16_is_that_in_fp32(length: int) -> None:
    query, key, value = torch.randn(3, 2, 2, length, 8, generator=torch.Generator().manual_seed(0))
    expected = attend(query, key, value, None, 0.0)
    found = attend(*(part.bfloat16() for part in (query, key, value)), None, 0.0)
    assert found.dtype is torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02)


def test_attention_in_bf16_obeys_a_mask() -> None:
    query, key, value = torch.randn(3, 2, 2, 9, 8, generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(9) <= torch.tensor([3, 8])[:, None])[:, None, None, :]
    asked = query[:, :, :1]
    expected = F.scaled_dot_product_attention(asked, key, value, mask)
    found = attend(*(part.bfloat16() for part in (asked, key, value)), mask, 0.0)
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02)
    unmasked = F.scaled_dot_product_attention(asked, key, value)
    assert float((unmasked - expected).abs().max()) > 0.1  # the mask matters here


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_drops_out_probabilities_and_keeps_their_mean(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    query, key = torch.zeros(1, 1, 64, 4, dtype=dtype), torch.zeros(1, 1, 64, 4, dtype=dtype)
    value = torch.ones(1, 1, 64, 200, dtype=dtype)
    found = attend(query, key, value, torch.ones(64, 64, dtype=torch.bool), 0.25).float()
    assert float(found.mean()) == pytest.approx(1.0, abs=0.05)
    assert float(found[..., 0].std()) == pytest.approx((0.25 / 0.75 / 64) ** 0.5, rel=0.35)


# --- one position a row ---------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [TINY, Shape(n_layer=1, n_head=1, n_embd=8, n_positions=24, vocab_size=41)])
def test_an_answer_position_is_that_of_the_full_forward(shape: Shape) -> None:
    model, ids = fresh(shape), random_ids(shape, 5, 20)
    positions = torch.tensor([0, 19, 7, 7, 1])
    with torch.no_grad():
        expected = model(ids)[torch.arange(5), positions]
        found = model(ids, positions)
        wrong = model(ids, torch.tensor([0, 19, 7, 7, 2]))
    assert found.shape == (5, 1, shape.n_embd)
    torch.testing.assert_close(found[:, 0], expected, rtol=1e-5, atol=1e-5)
    assert float((wrong[:, 0] - expected).abs().max()) > 1e-2


def test_an_answer_position_gives_the_gradients_of_the_full_forward() -> None:
    ids, positions = random_ids(TINY, 3, 20), torch.tensor([4, 19, 0])
    gradients = []
    for pruned in (False, True):
        model = fresh()
        hidden = model(ids, positions)[:, 0] if pruned else model(ids)[torch.arange(3), positions]
        hidden.square().sum().backward()
        gradients.append({name: value.grad for name, value in model.named_parameters()})
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, rtol=1e-4, atol=1e-5, msg=name)


def test_tokens_after_the_answer_change_nothing() -> None:
    model, ids = fresh(), random_ids(TINY, 2, 20)
    positions = torch.tensor([9, 14])
    padded = ids.clone()
    padded[0, 10:], padded[1, 15:] = 0, 0
    with torch.no_grad():
        torch.testing.assert_close(model(padded, positions), model(ids, positions), rtol=0, atol=0)


def test_logits_of_some_rows_are_those_of_all() -> None:
    model, rows = fresh(), torch.tensor([3, 40, 0])
    with torch.no_grad():
        hidden = model(random_ids(TINY, 2, 5))
        torch.testing.assert_close(model.logits(hidden, rows), model.logits(hidden)[..., rows])


# --- the cache ------------------------------------------------------------------------------------


def decode(model: GPT2, ids: Tensor, lengths: Tensor, steps: int, *, drop_row: bool = False) -> Tensor:
    """Read each row's first `lengths` tokens, then `steps` more one by one: (B, steps + 1, C)."""
    rows = len(ids)
    cache = KeyValueCache(model.shape, rows, int(lengths.max()) + steps, torch.float32, model.device)
    prompts = ids[:, : int(lengths.max())].clone()
    for row, length in enumerate(lengths.tolist()):
        prompts[row, length:] = 0  # padding on the right
    hidden = [model(prompts, lengths - 1, cache)]
    cache.advance(lengths.tolist())
    for _ in range(steps):
        if drop_row and len(cache.read) == rows:
            keep = list(range(1, rows))
            cache.keep(keep)
            ids, hidden = ids[keep], [states[keep] for states in hidden]
        tokens = ids[torch.arange(len(ids)), cache.lengths][:, None]
        hidden.append(model(tokens, None, cache))
        cache.advance([read + 1 for read in cache.read])
    return torch.cat(hidden, dim=1)


def read_at_once(model: GPT2, ids: Tensor, lengths: Tensor, steps: int) -> Tensor:
    """What `decode` should give, each row by itself and without a cache."""
    rows = []
    for row, length in zip(ids, lengths.tolist(), strict=True):
        rows.append(model(row[None, : length + steps])[0, length - 1 :])
    return torch.stack(rows)


@pytest.mark.parametrize("lengths", [[7, 7, 7], [1, 9, 4], [12, 3, 12], [1, 1, 1]])
@torch.no_grad()
def test_decoding_with_the_cache_equals_the_full_forward(lengths: list[int]) -> None:
    model, ids, known = fresh(), random_ids(TINY, 3, 24), torch.tensor(lengths)
    found = decode(model, ids, known, steps=8)
    torch.testing.assert_close(found, read_at_once(model, ids, known, steps=8), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_prompt_read_whole_fills_the_cache_too() -> None:
    model, ids = fresh(), random_ids(TINY, 2, 10)
    cache = KeyValueCache(TINY, 2, 10, torch.float32, model.device)
    model(ids[:, :9], cache=cache)
    cache.advance([9, 9])
    found = model(ids[:, 9:], cache=cache)
    torch.testing.assert_close(found[:, 0], model(ids)[:, 9], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lengths", [[7, 7, 7], [9, 2, 5], [9, 4, 4], [2, 2, 9]])
@torch.no_grad()
def test_rows_that_are_dropped_leave_the_others_as_they_were(lengths: list[int]) -> None:
    model, ids, known = fresh(), random_ids(TINY, 3, 24), torch.tensor(lengths)
    found = decode(model, ids, known, steps=6, drop_row=True)
    torch.testing.assert_close(found, read_at_once(model, ids, known, steps=6)[1:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bug", ["mask", "position", "place"])
@torch.no_grad()
def test_a_bug_in_the_cache_fails_the_comparison(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids, known = fresh(), random_ids(TINY, 3, 24), torch.tensor([1, 9, 4])
    expected = read_at_once(model, ids, known, steps=8)
    if bug == "mask":
        monkeypatch.setattr(KeyValueCache, "mask", lambda self: None)  # the padding is attended to
    elif bug == "position":
        advance = KeyValueCache.advance
        monkeypatch.setattr(KeyValueCache, "advance", lambda self, read: advance(self, [9] * len(read)))
        monkeypatch.setattr(KeyValueCache, "mask", lambda self: None)
    else:
        whole = KeyValueCache.extend

        def extend(self: KeyValueCache, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
            self.even = True  # every row's token goes behind the longest
            return whole(self, layer, key, value)

        monkeypatch.setattr(KeyValueCache, "extend", extend)
    found = decode(model, ids, known, steps=8)
    assert float((found - expected).abs().max()) > 1e-2


# --- dropout and recomputation --------------------------------------------------------------------


def test_without_dropout_training_is_deterministic_and_equals_evaluation() -> None:
    model, ids = fresh(), random_ids(TINY, 2, 20)
    with torch.no_grad():
        expected = model(ids)
        model.train()
        assert torch.equal(model(ids), expected)


def test_dropout_acts_in_training_alone() -> None:
    model, ids = fresh(dropout=0.3), random_ids(TINY, 2, 20)
    plain = fresh()
    with torch.no_grad():
        assert torch.equal(model(ids), plain(ids))
        model.train()
        assert not torch.allclose(model(ids), model(ids))


@pytest.mark.parametrize(
    ("part", "silent"),
    [
        ("drop.p", None),
        ("h.0.attn.dropout", None),
        ("h.0.drop.p", "h.0.mlp.c_proj"),  # what is left is the attention's path
        ("h.0.drop.p", "h.0.attn.c_proj"),
    ],
)
def test_dropout_acts_on_embeddings_attention_and_both_residuals(part: str, silent: str | None) -> None:
    """Each of the four places, with the others switched off."""
    model, ids = fresh(dropout=0.3).train(), random_ids(TINY, 2, 20)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout"):
            module.dropout = 0.0
    if silent:
        for value in model.get_submodule(silent).parameters():
            value.data.zero_()
    with torch.no_grad():
        assert torch.equal(model(ids), model(ids))
        owner, _, name = part.rpartition(".")
        setattr(model.get_submodule(owner), name, 0.3)
        assert not torch.allclose(model(ids), model(ids))


def loss_and_gradients(method: str, dropout: float, recompute: bool, pruned: bool) -> dict[str, Tensor]:
    torch.manual_seed(3)
    model = fresh(dropout=dropout).train()
    config = make_method(method, targets=ALL_TARGETS, lora_dropout=dropout)
    config.apply(model)
    for name, value in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(value, std=0.1)  # zero B would hide A's gradient
    model.grad_checkpoint = recompute
    ids = random_ids(TINY, 3, 20)
    hidden = model(ids, torch.tensor([19, 3, 8])) if pruned else model(ids)
    loss = tied_cross_entropy(hidden.flatten(0, 1), model.wte.weight, ids[:, : hidden.shape[1]].flatten())
    loss.backward()
    found = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    return {"loss": loss.detach(), **found}


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_recomputation_gives_the_same_bits(method: str, dropout: float, pruned: bool) -> None:
    kept = loss_and_gradients(method, dropout, recompute=False, pruned=pruned)
    computed_again = loss_and_gradients(method, dropout, recompute=True, pruned=pruned)
    assert kept.keys() == computed_again.keys()
    for name, value in kept.items():
        assert torch.equal(value, computed_again[name]), name


def test_recomputation_keeps_less() -> None:
    """The option is not a decoration: fewer bytes are saved for the backward pass."""

    def saved_bytes(recompute: bool) -> int:
        model = fresh().train()
        model.grad_checkpoint = recompute
        return kept_bytes(model, lambda: model(random_ids(TINY, 3, 20)))

    assert saved_bytes(True) < saved_bytes(False) / 2
