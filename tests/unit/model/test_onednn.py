"""Packed weights: the same numbers and gradients, and only where a weight is frozen."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from explora.core.config.method import Method
from explora.core.config.registry import Shape
from explora.core.config.values import Blocks
from explora.core.methods.bitfit import BitFit
from explora.core.methods.freezing import freeze
from explora.core.methods.full import Full
from explora.core.methods.lora import LoRA
from explora.core.methods.top import Top
from explora.core.model.gpt2 import GPT2, Conv1D
from explora.core.model.onednn import uses_onednn
from tests.tiny_models import randomise

SHAPE = Shape(n_layer=3, n_head=2, n_embd=32, n_positions=24, vocab_size=41)
LORA = LoRA(rank=4, targets=("key", "value", "mlp-down"))

pytestmark = pytest.mark.skipif(not uses_onednn(torch.zeros(1)), reason="this torch has no oneDNN products")


def prepared(method: Method, dtype: torch.dtype = torch.float32) -> GPT2:
    model = randomise(GPT2(SHAPE)).to(dtype)
    model.compute_dtype = dtype
    method.apply(model)
    return model if method.trains_base else randomise(model)


def gradients(model: GPT2) -> dict[str, Tensor]:
    ids = torch.arange(2 * 11).view(2, 11) % SHAPE.vocab_size
    model.logits(model(ids)).square().sum().backward()
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def packed(model: GPT2) -> list[bool]:
    """Which linear layers are packed, block by block in their order."""
    return [module.weight.is_mkldnn for module in model.modules() if isinstance(module, Conv1D)]


@pytest.mark.parametrize("layers", [None, Blocks([1, 2])])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lora_on_packed_weights_has_the_same_gradients(layers: Blocks | None, dtype: torch.dtype) -> None:
    model = prepared(LoRA(**{**vars(LORA), "layers": layers}), dtype)
    twin = copy.deepcopy(model)
    twin.pack(twice=True)
    # Where the processor has no bf16 products oneDNN does not take them, and the weights stay as they are.
    assert set(packed(twin)) == {uses_onednn(torch.zeros(1, dtype=dtype))}
    expected, found = gradients(model), gradients(twin)
    assert found.keys() == expected.keys() and len(found) == 4 * (3 if layers is None else 2)
    bound = 1e-4 if dtype is torch.float32 else 0.1
    for name, value in expected.items():
        scale = float(value.abs().max())
        assert float((found[name] - value).abs().max()) <= bound * scale, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_biases_of_packed_weights_have_the_same_gradients(dtype: torch.dtype) -> None:
    model = prepared(BitFit(), dtype)
    twin = copy.deepcopy(model)
    twin.pack(twice=True)
    assert set(packed(twin)) == {uses_onednn(torch.zeros(1, dtype=dtype))}
    expected, found = gradients(model), gradients(twin)
    assert found.keys() == expected.keys() and len(found) == 6 * SHAPE.n_layer + 1
    bound = 1e-4 if dtype is torch.float32 else 0.1
    for name, value in expected.items():
        assert found[name].dtype is torch.float32
        scale = float(value.abs().max())
        assert float((found[name] - value).abs().max()) <= bound * scale, name


def test_a_transposed_weight_that_is_not_transposed_would_be_seen() -> None:
    model = prepared(LORA)
    twin = copy.deepcopy(model)
    twin.pack(twice=True)
    for module in twin.modules():
        if isinstance(module, Conv1D) and module.weight.shape[0] == module.weight.shape[1]:
            module.transposed = module.weight.detach()
    name = "h.0.attn.c_attn.lora_A"
    expected, found = gradients(model)[name], gradients(twin)[name]
    assert float((found - expected).abs().max()) > 0.01 * float(expected.abs().max())


def test_blocks_below_the_first_gradient_are_packed_once() -> None:
    model = prepared(LoRA(**{**vars(LORA), "layers": Blocks.parse("2-2")}))
    model.pack(twice=True)
    doubled = [module.transposed is not None for module in model.modules() if isinstance(module, Conv1D)]
    assert doubled == [False] * 8 + [True] * 4


def test_without_room_for_two_only_what_no_gradient_passes_is_packed() -> None:
    model = prepared(LoRA(**{**vars(LORA), "layers": Blocks.parse("2-2")}))
    model.pack(twice=False)
    assert packed(model) == [True] * 8 + [False] * 4


def test_what_is_trained_is_not_packed() -> None:
    model = prepared(Full())
    model.pack(twice=True)
    assert not any(packed(model))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", [BitFit(), Top(blocks=2)], ids=["bitfit", "top"])
def test_what_was_trained_in_fp32_is_packed_in_the_compute_dtype(method: Method, dtype: torch.dtype) -> None:
    """For inference: whatever the base's own weights were while they were trained."""
    model = prepared(method, dtype).requires_grad_(False)
    ids = torch.arange(11).view(1, 11)
    expected = model.logits(model(ids))
    model.pack(twice=False)
    assert {value.dtype for name, value in model.named_parameters() if name.endswith("c_fc.weight")} == {
        dtype
    }
    bound = 1e-4 if dtype is torch.float32 else 0.05
    torch.testing.assert_close(model.logits(model(ids)), expected, rtol=bound, atol=bound * 10)


def test_a_frozen_trunk_is_packed_and_counts_the_same_numbers() -> None:
    model = randomise(GPT2(SHAPE))
    freeze(model)
    before = sum(value.numel() for value in model.parameters())
    ids = torch.arange(11).view(1, 11)
    expected = model(ids)
    model.pack(twice=False)
    assert all(packed(model))
    assert sum(value.numel() for value in model.parameters()) == before
    torch.testing.assert_close(model(ids), expected, rtol=1e-4, atol=1e-4)
