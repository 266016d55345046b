"""What is made again gives the bits of what is kept; hooks hold nothing; a wrong recipe is noticed."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from explora.core.config.method import Method
from explora.core.config.registry import Shape
from explora.core.methods.full import Full
from explora.core.methods.lora import LoRA
from explora.core.model import recompute
from explora.core.model.gpt2 import GPT2
from explora.core.model.recompute import recomputed
from tests.kept_tensors import kept_bytes
from tests.tiny_models import randomise

TINY = Shape(n_layer=2, n_head=2, n_embd=16, n_positions=24, vocab_size=31)
ALL = ("query", "key", "value", "attn-out", "mlp-up", "mlp-down")
TRIED = [
    Full(),
    LoRA(rank=4, targets=ALL),
    LoRA(rank=4, targets=ALL, lora_dropout=0.5),
    LoRA(rank=4),
]


def prepared(method: Method, dtype: torch.dtype) -> GPT2:
    torch.manual_seed(0)
    model = randomise(GPT2(TINY)).train()
    model.compute_dtype = dtype
    if not method.trains_base:
        model.to(dtype)
    method.apply(model)
    return model


def gradients(method: Method, dtype: torch.dtype) -> dict[str, Tensor]:
    model = prepared(method, dtype)
    torch.manual_seed(1)
    model(torch.arange(40).view(2, 20) % 31).float().square().sum().backward()
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", TRIED, ids=lambda method: method.description)
def test_gradients_have_the_same_bits(
    method: Method, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = gradients(method, dtype)
    monkeypatch.setattr(recompute, "recomputed", lambda value, make: contextlib.nullcontext())
    kept = gradients(method, dtype)
    assert again.keys() == kept.keys()
    assert all(torch.equal(again[name], kept[name]) for name in kept)


def test_a_wrong_recipe_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = gradients(TRIED[0], torch.float32)
    monkeypatch.setattr(
        recompute, "recomputed", lambda value, make: recomputed(value, lambda: make() * 1.001)
    )
    wrong = gradients(TRIED[0], torch.float32)
    assert any(not torch.equal(right[name], wrong[name]) for name in right)


def test_much_less_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def kept() -> int:
        model = prepared(TRIED[0], torch.float32)
        return kept_bytes(model, lambda: model(torch.zeros(2, 20, dtype=torch.long)))

    less = kept()
    monkeypatch.setattr(recompute, "recomputed", lambda value, make: contextlib.nullcontext())
    assert less < 0.7 * kept()


@pytest.mark.parametrize("keeps", [True, False], ids=["a product that keeps it", "one that does not"])
def test_neither_value_nor_recipe_outlives_its_use(keeps: bool) -> None:
    weight = nn.Parameter(torch.ones(3, 3), requires_grad=keeps)
    source = torch.ones(2, 3, requires_grad=True)

    def run() -> tuple[Tensor, weakref.ref[Tensor], weakref.ref[Callable[[], Tensor]]]:
        value = source * 2

        def make() -> Tensor:
            return source.detach() * 2

        with recomputed(value, make):
            result = value @ weight
        return result, weakref.ref(value), weakref.ref(make)

    result, value, make = run()
    gc.collect()
    assert value() is None
    assert (make() is not None) is keeps  # it is needed where the product has a weight to learn
    result.sum().backward()
    assert source.grad is not None
