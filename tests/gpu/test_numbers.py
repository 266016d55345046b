"""Logits, losses and gradients: those of the CPU in fp32, and in half precision as near to it as peft's."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import GPT2LMHeadModel

from explora.core.base.find import open_base
from explora.core.base.weights import load_model
from explora.core.config.method import Method
from explora.core.config.registry import METHODS, method_class
from explora.core.model.cross_entropy import tied_cross_entropy
from explora.core.model.gpt2 import GPT2
from tests.tiny_models import VOCABULARY, make_method

CPU = torch.device("cpu")
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
RANK, CLASSES = 4, 3
IDS = torch.randint(VOCABULARY, (4, 40), generator=torch.Generator().manual_seed(3))
# Our error in half precision is measured against fp32; peft's is the scale. Both round in other places.
TIMES_PEFT_S_ERROR = 1.5
IN_FP32 = 1e-4  # relative error

# peft asks transformers 5 by an old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def ours(base: Path, method: Method, device: torch.device, dtype: torch.dtype = torch.float32) -> GPT2:
    """Our model with the method applied, the same numbers in all that it trains on every device."""
    frozen = torch.float32 if method.trains_base else dtype
    model = load_model(open_base(str(base)), dtype=frozen, device=CPU)
    model.compute_dtype = dtype
    model.score = nn.Linear(model.shape.n_embd, CLASSES, bias=False)
    generator = torch.Generator().manual_seed(1)
    nn.init.normal_(model.score.weight, generator=generator)
    torch.manual_seed(2)
    method.apply(model)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad and not method.trains_base:
                value.add_(0.05 * torch.randn(value.shape, generator=generator))
    return model.to(device)


def results(model: GPT2, device: torch.device) -> dict[str, Tensor]:
    """Return logits, loss and every gradient, on the CPU and in fp32."""
    ids = IDS.to(device)
    hidden = model(ids)
    tied = tied_cross_entropy(hidden[:, :-1].flatten(0, 1), model.wte.weight, ids[:, 1:].flatten())
    answers = torch.arange(len(ids), device=device) % CLASSES
    loss = tied / ids.numel() + F.cross_entropy(model.classify(hidden[:, -1]), answers)
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    found = {"logits": model.logits(hidden.detach()), "loss": loss.detach(), **gradients}
    return {name: value.detach().float().cpu() for name, value in found.items()}


def error(found: Tensor, expected: Tensor) -> float:
    """Return the relative error: the norm of the difference, as a share of the norm."""
    return float((found - expected).norm() / expected.norm().clamp_min(1e-12))


def largest_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    assert found.keys() == expected.keys()
    return max(error(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_in_fp32_every_method_computes_what_the_cpu_does(
    base: Path, device: torch.device, name: str, checkpointing: bool
) -> None:
    method = make_method(name, rank=RANK)
    expected = results(ours(base, method, CPU).train(), CPU)
    model = ours(base, method, device).train()
    model.grad_checkpoint = checkpointing
    assert largest_error(results(model, device), expected) < IN_FP32


@pytest.mark.parametrize("amp", HALF)
@pytest.mark.parametrize("name", METHODS)
def test_in_half_precision_every_method_stays_near_fp32(
    base: Path, device: torch.device, name: str, amp: str
) -> None:
    method = make_method(name, rank=RANK)
    expected = results(ours(base, method, CPU), CPU)
    found = results(ours(base, method, device, HALF[amp]), device)
    assert largest_error(found, expected) < {"bf16": 0.06, "fp16": 0.01}[amp]


def theirs(base: Path, device: torch.device) -> Any:
    config = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM"
    )
    return get_peft_model(GPT2LMHeadModel.from_pretrained(base), config).to(device).eval()


def copy_adapters(model: GPT2, peer: Any) -> None:
    """Give peft our A and B."""
    own = {name: value for name, value in model.named_parameters() if "lora_" in name}
    with torch.no_grad():
        for name, value in own.items():
            key = f"base_model.model.transformer.{name}.default.weight"
            peer.get_parameter(key).copy_(value if name.endswith("lora_A") else value[0])


def language_loss(logits: Tensor, ids: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the gradients of A and B by block and letter."""
    return {
        name.partition("h.")[2].replace(".default.weight", ""): value.grad.float().cpu().squeeze(0)
        for name, value in model.named_parameters()
        if "lora_" in name and value.grad is not None
    }


def by_explora(model: GPT2, device: torch.device) -> dict[str, Tensor]:
    ids = IDS.to(device)
    logits = model.logits(model(ids))
    loss = language_loss(logits, ids)
    loss.backward()  # type: ignore[no-untyped-call]
    return {"logits": logits.detach().cpu(), "loss": loss.detach().cpu(), **gradients_of(model)}


def by_peft(model: Any, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    ids = IDS.to(device)
    with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
        logits = model(input_ids=ids).logits
    loss = language_loss(logits, ids)
    loss.backward()  # type: ignore[no-untyped-call]
    return {"logits": logits.detach().float().cpu(), "loss": loss.detach().cpu(), **gradients_of(model)}


def lora() -> Method:
    return method_class("lora")(rank=RANK, targets=("c_attn",))  # type: ignore[call-arg]


def without_heads(model: GPT2) -> GPT2:
    model.score = None
    return model


def test_in_fp32_lora_computes_what_peft_does(base: Path, device: torch.device) -> None:
    model, peer = without_heads(ours(base, lora(), device)), theirs(base, device)
    copy_adapters(model, peer)
    expected = by_peft(peer, device, torch.float32)
    assert largest_error(by_explora(model, device), expected) < IN_FP32


def test_the_comparison_sees_a_wrong_scale(base: Path, device: torch.device) -> None:
    model, peer = without_heads(ours(base, lora(), device)), theirs(base, device)
    copy_adapters(model, peer)
    model.h[1].attn.c_attn.scale *= 1.1
    assert largest_error(by_explora(model, device), by_peft(peer, device, torch.float32)) > IN_FP32


@pytest.mark.parametrize("amp", HALF)
def test_in_half_precision_lora_is_as_exact_as_peft(base: Path, device: torch.device, amp: str) -> None:
    exact = without_heads(ours(base, lora(), CPU))
    peer = theirs(base, device)
    copy_adapters(exact, peer)
    expected = by_explora(exact, CPU)
    found = by_explora(without_heads(ours(base, lora(), device, HALF[amp])), device)
    their = by_peft(peer, device, HALF[amp])
    for name, value in expected.items():
        allowed = TIMES_PEFT_S_ERROR * error(their[name], value) + 1e-3
        assert error(found[name], value) <= allowed, name


def test_a_copy_on_the_device_is_the_same_model(base: Path, device: torch.device) -> None:
    """What the comparisons rest on: the same start, and no state that a forward pass leaves behind."""
    model = ours(base, lora(), device)
    again = copy.deepcopy(model)
    first, second = results(model, device), results(again, device)
    assert all(torch.equal(first[name], second[name]) for name in first)
