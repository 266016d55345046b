"""The closed forms of what autograd keeps, against what it keeps."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from explora.core.config.registry import Shape
from explora.core.config.values import Blocks
from explora.core.estimate.activations import Half, Work, attention, feed_forward
from explora.core.methods.bitfit import BitFit
from explora.core.methods.dora import DoRA
from explora.core.methods.full import Full
from explora.core.methods.last_linear import LastLinear
from explora.core.methods.lora import LoRA
from explora.core.methods.miss import MiSS
from explora.core.methods.top import Top
from explora.core.model.gpt2 import GPT2
from tests.kept_tensors import kept_bytes
from tests.tiny_models import randomise

SHAPE = Shape(n_layer=3, n_head=4, n_embd=32, n_positions=640, vocab_size=100)
ALL = ("query", "key", "value", "attn-out", "mlp-up", "mlp-down")
METHODS_TRIED = {
    "full": Full(),
    "key and value": LoRA(rank=8),
    "all six": LoRA(rank=16, targets=ALL),
    "mlp-up alone": LoRA(rank=4, targets=("mlp-up",)),
    "dropped": LoRA(rank=4, targets=("c_attn", "mlp-down"), lora_dropout=0.1),
    "biases": BitFit(),
    "adapters and their biases": LoRA(rank=4, targets=("c_attn", "mlp-down"), bias="lora-only"),
    "some adapters and all biases": LoRA(rank=4, layers=Blocks([1]), bias="all"),
    "dora": DoRA(rank=8, targets=ALL),
    "dora on key and value": DoRA(rank=8, bias="lora-only"),
    "dora on whole modules": DoRA(rank=4, targets=("c_attn", "attn-out", "mlp-up")),
    "shards": MiSS(rank=16, targets=ALL),
    "top": Top(blocks=2),
    "one block": LoRA(rank=4, targets=("attn-out",), layers=Blocks.parse("1-1")),
}
DTYPES = {2: torch.bfloat16, 4: torch.float32}
CLOSE = 0.03  # indices of the asked positions and masks are left out


def make_model(work: Work) -> GPT2:
    model = randomise(GPT2(work.shape, work.dropout))
    dtype = DTYPES[work.number]
    model.to(torch.float32 if work.is_full else dtype)
    model.compute_dtype = dtype
    work.method.apply(model)
    return model.train()


def kept_in_blocks(work: Work) -> int:
    """Count the storages that live on after the blocks, their input among them, weights not at all."""
    model = make_model(work)
    embedded = model.features(torch.zeros(work.batch_size, work.length, dtype=torch.long), 0).states.detach()
    positions = torch.full((work.batch_size,), work.length - 1)

    def through_blocks() -> torch.Tensor:
        states = embedded.clone().requires_grad_(work.is_full)
        for layer, block in enumerate(model.h):
            states = block(states, positions if work.is_asked_once(layer) else None, None)
        return states

    return kept_bytes(model, through_blocks)


def halves(work: Work) -> list[Half]:
    found: list[Half] = []
    passes = work.is_full
    for layer in range(work.shape.n_layer):
        for half in (attention, feed_forward):
            found.append(half(work, layer, passes))
            passes = found[-1].passes
    return found


def work_of(method: str, number: int, size: tuple[int, int], one_position: bool, dropout: float = 0) -> Work:
    return Work(
        shape=SHAPE,
        method=METHODS_TRIED[method],
        batch_size=size[0],
        length=size[1],
        number=number,
        dropout=dropout,
        one_position=one_position,
    )


@pytest.mark.parametrize("one_position", [True, False], ids=["one position", "all positions"])
@pytest.mark.parametrize("size", [(3, 20), (2, 140), (1, 520)], ids=["kept", "recomputed", "fused"])
@pytest.mark.parametrize("number", [2, 4], ids=["bf16", "fp32"])
@pytest.mark.parametrize("method", METHODS_TRIED)
def test_what_blocks_keep(method: str, number: int, size: tuple[int, int], one_position: bool) -> None:
    work = work_of(method, number, size, one_position)
    told = sum(half.size for half in halves(work))
    assert told == pytest.approx(kept_in_blocks(work), rel=CLOSE)


@pytest.mark.parametrize("size", [(3, 20), (1, 520)], ids=["short", "long"])
@pytest.mark.parametrize("method", ["full", "key and value"])
def test_what_blocks_keep_with_dropout(method: str, size: tuple[int, int]) -> None:
    work = work_of(method, 4, size, one_position=False, dropout=0.1)
    assert sum(half.size for half in halves(work)) == pytest.approx(kept_in_blocks(work), rel=CLOSE)


def test_a_line_too_few_is_noticed() -> None:
    work = work_of("key and value", 2, (3, 20), one_position=False)
    without_norms = sum(half.size - half.kept.get("norm", 0) for half in halves(work))
    assert without_norms != pytest.approx(kept_in_blocks(work), rel=CLOSE)


def test_nothing_is_kept_below_the_lowest_adapter() -> None:
    found = halves(work_of("one block", 2, (3, 20), one_position=False))
    assert [half.size > 0 for half in found] == [False, False, True, True, True, True]
    frozen = dataclasses.replace(work_of("one block", 2, (3, 20), True), method=LastLinear())
    assert sum(half.size for half in halves(frozen)) == 0
