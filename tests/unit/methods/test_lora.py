"""LoRA against a plain autograd implementation: outputs, gradients, merging, and what is trained at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from explora.core.config.registry import Shape
from explora.core.config.values import Blocks
from explora.core.methods.adapted_layers import merge_layers
from explora.core.methods.lora import LoRA
from explora.core.methods.lora_layers import LoRALinear, _AddLowRank
from explora.core.methods.rslora import RSLoRA
from explora.core.model.gpt2 import GPT2, Conv1D

SHAPE = Shape(n_layer=3, n_head=2, n_embd=8, n_positions=16, vocab_size=20)
IDS = torch.arange(24).view(2, 12) % SHAPE.vocab_size
ALL_SEPARATE = ("query", "key", "value", "attn-out", "mlp-up", "mlp-down")
PARTS = [(0,), (2,), (1, 2), (0, 2), (0, 1, 2)]

Operation = Callable[[Tensor, Tensor, Tensor, Tensor, tuple[int, ...], float], Tensor]


def add_low_rank(*arguments: Any) -> Tensor:
    result: Tensor = _AddLowRank.apply(*arguments)  # type: ignore[no-untyped-call]
    return result


def plain(y: Tensor, x: Tensor, a: Tensor, b: Tensor, parts: tuple[int, ...], scale: float) -> Tensor:
    """The definition, part by part; autograd differentiates it."""
    span, rank = b.shape[1:]
    pieces = list(y.split(span, dim=1))
    for index, part in enumerate(parts):
        a_part = a[index * rank : (index + 1) * rank]
        pieces[part] = pieces[part] + scale * (x @ a_part.T @ b[index].T)
    return torch.cat(pieces, dim=1)


def forgets_the_scale(
    y: Tensor, x: Tensor, a: Tensor, b: Tensor, parts: tuple[int, ...], scale: float
) -> Tensor:
    return plain(y, x, a, b, parts, 1.0)


def stacks_a_backwards(
    y: Tensor, x: Tensor, a: Tensor, b: Tensor, parts: tuple[int, ...], scale: float
) -> Tensor:
    turned = a.view(len(parts), -1, a.shape[1]).flip(0).reshape(a.shape)
    return plain(y, x, turned, b, parts, scale)


def misplaces_the_parts(
    y: Tensor, x: Tensor, a: Tensor, b: Tensor, parts: tuple[int, ...], scale: float
) -> Tensor:
    return plain(y, x, a, b, tuple((part + 1) % 3 for part in parts), scale)


def loses_the_gradient_of_x(
    y: Tensor, x: Tensor, a: Tensor, b: Tensor, parts: tuple[int, ...], scale: float
) -> Tensor:
    return plain(y, x.detach(), a, b, parts, scale)


def values_and_gradients(operation: Operation, parts: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """The output of an operation on fixed random input, and the gradients of y, x, A and B."""
    generator = torch.Generator().manual_seed(len(parts))
    sizes = {"y": (5, 12), "x": (5, 6), "a": (2 * len(parts), 6), "b": (len(parts), 4, 2)}
    drawn = {name: torch.randn(size, generator=generator, dtype=dtype) for name, size in sizes.items()}
    leaves = [value.requires_grad_() for value in drawn.values()]
    y, x, a, b = leaves
    output = operation(y * 1.0, x, a, b, parts, 1.5)  # y is changed in place, so it cannot be a leaf
    weights = torch.randn(output.shape, generator=generator, dtype=dtype)
    return [output.detach(), *torch.autograd.grad((output * weights).sum(), leaves, materialize_grads=True)]


def alike(left: list[Tensor], right: list[Tensor], tolerance: float) -> bool:
    return all(torch.allclose(a, b, atol=tolerance, rtol=tolerance) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_forward_and_gradients_equal_the_definition(
    parts: tuple[int, ...], dtype: torch.dtype, tolerance: float
) -> None:
    ours = values_and_gradients(add_low_rank, parts, dtype)
    assert alike(ours, values_and_gradients(plain, parts, dtype), tolerance)


@pytest.mark.parametrize(
    "planted", [forgets_the_scale, stacks_a_backwards, misplaces_the_parts, loses_the_gradient_of_x]
)
def test_the_comparison_sees_a_planted_bug(planted: Operation) -> None:
    ours = values_and_gradients(add_low_rank, (1, 2), torch.float64)
    assert not alike(ours, values_and_gradients(planted, (1, 2), torch.float64), 1e-2)


@pytest.mark.parametrize("parts", PARTS)
def test_gradients_equal_finite_differences(parts: tuple[int, ...]) -> None:
    def operation(y: Tensor, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return add_low_rank(y * 1.0, x, a, b, parts, 0.7)

    generator = torch.Generator().manual_seed(0)
    sizes = [(3, 12), (3, 5), (2 * len(parts), 5), (len(parts), 4, 2)]
    inputs = [torch.randn(size, generator=generator, dtype=torch.float64).requires_grad_() for size in sizes]
    assert torch.autograd.gradcheck(operation, inputs)


# The layer


def linear(fan_in: int = 6, fan_out: int = 12) -> Conv1D:
    base = Conv1D(fan_in, fan_out).requires_grad_(False)
    with torch.no_grad():
        base.weight.normal_(generator=torch.Generator().manual_seed(1))
        base.bias.normal_(generator=torch.Generator().manual_seed(2))
    return base


def fill(layer: nn.Module, seed: int = 3) -> None:
    """Give every adapter numbers, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in layer.named_parameters():
            if name.endswith("lora_B"):
                value.normal_(generator=generator)


@pytest.mark.parametrize("parts", [None, *PARTS])
def test_before_training_the_output_is_exactly_the_base_s(parts: tuple[int, ...] | None) -> None:
    x, base = torch.randn(2, 3, 6), linear()
    expected = base(x)
    assert torch.equal(LoRALinear(base, parts, 2)(x), expected)


@pytest.mark.parametrize("parts", [None, *PARTS])
def test_merged_equals_unmerged(parts: tuple[int, ...] | None) -> None:
    x, layer = torch.randn(2, 3, 6), LoRALinear(linear(), parts, 2, scale=3.0 / 2)
    fill(layer)
    before, base = layer(x), layer.base_layer(x)
    merged = layer.merged()(x)
    assert torch.allclose(merged, before, atol=1e-5)
    assert not torch.allclose(merged, base, atol=1e-1)


def test_a_part_changes_its_own_columns_alone() -> None:
    x, layer = torch.randn(4, 6), LoRALinear(linear(), (1,), 2)
    fill(layer)
    query, key, value = (layer(x) != layer.base_layer(x)).split(4, dim=1)
    assert key.all()
    assert not query.any()
    assert not value.any()


def test_merging_adds_in_fp32_and_casts_last() -> None:
    base = linear().to(torch.bfloat16)
    layer = LoRALinear(base, (2,), 2)
    fill(layer)
    exact = base.weight.float()
    exact[:, 8:] += layer.scale * (layer.lora_B[0] @ layer.lora_A).detach().T
    assert layer.lora_A.dtype is torch.float32
    assert torch.equal(layer.merged().weight, exact.to(torch.bfloat16))


def test_dropout_acts_on_the_adapter_s_input_while_training_alone() -> None:
    layer = LoRALinear(linear(), None, 2, dropout=0.5)
    fill(layer)
    x = torch.randn(64, 6)
    without = layer.eval()(x)
    torch.manual_seed(0)
    dropped = layer.train()(x)
    torch.manual_seed(0)
    expected = layer.base_layer(x) + layer.scale * (
        nn.functional.dropout(x, 0.5) @ layer.lora_A.T @ layer.lora_B[0].T
    )
    assert torch.allclose(dropped, expected, atol=1e-5)
    assert not torch.allclose(dropped, without, atol=1e-2)


# The model


def model(targets: tuple[str, ...], layers: Blocks | None = None, classes: int = 0) -> GPT2:
    built = GPT2(SHAPE)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for value in built.parameters():
            value.normal_(0, 0.2, generator=generator)
    if classes:
        built.score = nn.Linear(SHAPE.n_embd, classes, bias=False)
    LoRA(rank=2, targets=targets, layers=layers).apply(built)
    return built


def test_targets_become_modules_with_parts() -> None:
    assert LoRA(targets=("value", "key")).modules() == {"attn.c_attn": (1, 2)}
    assert LoRA(targets=("c_attn", "mlp-down")).modules() == {"attn.c_attn": None, "mlp.c_proj": None}
    assert LoRA(targets=("attn-out",)).modules() == {"attn.c_proj": None}


@pytest.mark.parametrize("targets", [("key", "value"), ("c_attn",), ALL_SEPARATE])
def test_only_adapters_and_the_head_receive_gradients(targets: tuple[str, ...]) -> None:
    adapted = model(targets, classes=3)
    fill(adapted)
    adapted.classify(adapted(IDS)).sum().backward()
    moved = {name for name, value in adapted.named_parameters() if value.grad is not None}
    per_block = len(LoRA(targets=targets).modules()) * 2
    assert all(name == "score.weight" or name.endswith(("lora_A", "lora_B")) for name in moved)
    assert len(moved) == 3 * per_block + 1
    assert all(bool(value.grad.any()) for value in adapted.parameters() if value.grad is not None)


def test_the_whole_model_before_training_is_exactly_the_base() -> None:
    adapted = model(ALL_SEPARATE)
    before = adapted(IDS)
    merge_layers(adapted)
    assert torch.equal(before, adapted(IDS))
    assert not any(isinstance(module, LoRALinear) for module in adapted.modules())


def test_the_whole_model_merged_equals_unmerged() -> None:
    adapted = model(ALL_SEPARATE)
    base = adapted(IDS)
    fill(adapted)
    before = adapted(IDS)
    merge_layers(adapted)
    assert torch.allclose(adapted(IDS), before, atol=1e-4)
    assert not torch.allclose(base, before, atol=1e-1)


@pytest.mark.parametrize("layers", [None, Blocks([1, 2]), Blocks([2]), Blocks([0, 2])])
def test_the_backward_pass_stops_below_the_lowest_adapter(layers: Blocks | None) -> None:
    adapted = model(("key", "value"), layers)
    needed: dict[int, bool] = {}
    for number, block in enumerate(adapted.h):
        block.register_forward_pre_hook(
            lambda _, inputs, number=number: needed.__setitem__(number, inputs[0].requires_grad)
        )
    adapted(IDS).sum().backward()
    first = layers[0] if layers else 0
    assert needed == {number: number > first for number in range(SHAPE.n_layer)}


def test_layers_bound_what_is_adapted() -> None:
    names = {name for name, value in model(("value",), (1, 2)).named_parameters() if value.requires_grad}
    assert names == {f"h.{layer}.attn.c_attn.lora_{kind}" for layer in (1, 2) for kind in "AB"}


@pytest.mark.parametrize("targets", [("key", "value"), ALL_SEPARATE])
def test_gradients_of_a_model_equal_those_of_plain_operations(
    targets: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    adapted = model(targets)
    fill(adapted)

    def gradients() -> list[Tensor]:
        trained = [value for value in adapted.parameters() if value.requires_grad]
        return list(torch.autograd.grad(adapted.logits(adapted(IDS)).logsumexp(-1).sum(), trained))

    ours = gradients()
    monkeypatch.setattr(_AddLowRank, "apply", plain)
    assert alike(ours, gradients(), 1e-3)
    monkeypatch.setattr(_AddLowRank, "apply", forgets_the_scale)
    assert not alike(ours, gradients(), 1e-3)


def test_the_joint_alpha_of_rslora_is_written_without_a_rounding_error() -> None:
    config = RSLoRA(rank=4, targets=("key", "value")).peft_config()
    assert config is not None
    assert (config["r"], config["lora_alpha"]) == (8, 8.0)
