"""The laws of every method, over the registry itself; then what LoRA promises besides."""

from __future__ import annotations

import copy
import importlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explora.core.config.concerns import OptimizerConfig
from explora.core.config.method import Method
from explora.core.config.registry import METHODS, TARGETS, Shape, method_class
from explora.core.config.values import Blocks
from explora.core.estimate.parameters import count
from explora.core.methods.adapted_layers import merge_layers
from explora.core.methods.lora_layers import LoRALinear, _AddLowRank
from explora.core.model.cross_entropy import tied_cross_entropy
from explora.core.model.gpt2 import GPT2, Conv1D
from explora.core.training.optimizers import make_optimizers
from explora.errors import UsageError
from tests.tiny_models import make_method, randomise

TINY = Shape(n_layer=3, n_head=2, n_embd=12, n_positions=16, vocab_size=31)
CLASSES = 3
SEPARATE = ("query", "key", "value", "attn-out", "mlp-up", "mlp-down")
FUSED = ("c_attn", "attn-out", "mlp-up", "mlp-down")
IDS = torch.randint(TINY.vocab_size, (4, 16), generator=torch.Generator().manual_seed(5))
ADAPTING = [name for name in METHODS if not method_class(name).trains_base]


def base_model(seed: int = 0, dropout: float = 0.0) -> GPT2:
    model = randomise(GPT2(TINY, dropout), seed)
    model.score = nn.Linear(TINY.n_embd, CLASSES, bias=False)
    nn.init.normal_(model.score.weight, std=0.1)
    return model


def config_of(method: str, **options: object) -> Method:
    return make_method(method, **{"rank": 2, "targets": SEPARATE, **options})


def apply(model: GPT2, config: Method) -> GPT2:
    config.apply(model)
    return model


def prepared(method: str, **options: object) -> GPT2:
    torch.manual_seed(1)
    return apply(base_model(), config_of(method, **options))


def trained(model: GPT2) -> dict[str, nn.Parameter]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def loss_of(model: GPT2) -> Tensor:
    """Both heads, so that whatever can learn does."""
    hidden = model(IDS)
    tied = tied_cross_entropy(hidden[:, :-1].flatten(0, 1), model.wte.weight, IDS[:, 1:].flatten())
    return tied / 60 + F.cross_entropy(model.classify(hidden[:, -1]), torch.tensor([0, 1, 2, 0]))


def train(model: GPT2, method: Method, steps: int = 3) -> None:
    model.train()
    optimizers = make_optimizers(model, method, OptimizerConfig(learning_rate=0.02))
    for _ in range(steps):
        loss_of(model).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    model.eval()


# --- laws of every method -------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_at_the_start_the_model_is_the_base(method: str) -> None:
    with torch.no_grad():
        torch.testing.assert_close(prepared(method)(IDS), base_model()(IDS), rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_only_what_is_trained_receives_gradients(method: str) -> None:
    model = prepared(method)
    loss_of(model).backward()
    reached = {name for name, value in model.named_parameters() if value.grad is not None}
    assert reached == trained(model).keys()
    assert reached  # and something is


@pytest.mark.parametrize("method", METHODS)
def test_only_what_is_trained_moves_and_all_of_it_does(method: str) -> None:
    model = prepared(method)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    train(model, config_of(method))
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert moved == trained(model).keys()


@pytest.mark.parametrize("method", METHODS)
def test_training_lowers_the_loss(method: str) -> None:
    model = prepared(method)
    before = loss_of(model).item()
    train(model, config_of(method), steps=10)
    assert loss_of(model).item() < before - 0.01


@pytest.mark.parametrize("method", METHODS)
def test_the_head_of_the_task_is_trained_by_every_method(method: str) -> None:
    assert "score.weight" in trained(prepared(method))


@pytest.mark.parametrize("method", METHODS)
def test_as_much_is_trained_as_the_closed_form_says(method: str) -> None:
    found = sum(value.numel() for value in trained(prepared(method)).values())
    assert found == count(TINY, config_of(method), CLASSES).trainable


@pytest.mark.parametrize("method", METHODS)
def test_merging_changes_no_answer_and_leaves_a_plain_model(method: str) -> None:
    model = prepared(method)
    train(model, config_of(method))
    with torch.no_grad():
        expected = model(IDS)
        config_of(method).merge(model)
        torch.testing.assert_close(model(IDS), expected, rtol=1e-5, atol=1e-5)
    assert [name for name, _ in model.named_parameters()] == [
        name for name, _ in base_model().named_parameters()
    ]
    assert not torch.allclose(expected, base_model()(IDS), atol=1e-3) or method == "last-linear"


@pytest.mark.parametrize("method", METHODS)
def test_the_same_generator_state_gives_the_same_start(method: str) -> None:
    first, second = prepared(method), prepared(method)
    assert all(torch.equal(value, second.get_parameter(name)) for name, value in first.named_parameters())


@pytest.mark.parametrize("method", ADAPTING)
def test_a_base_in_bf16_stays_bf16_and_what_is_trained_is_fp32(method: str) -> None:
    model = base_model().bfloat16()
    model.compute_dtype = torch.bfloat16
    assert model.score is not None
    model.score.float()
    apply(model, config_of(method))
    train(model, config_of(method))
    for name, value in model.named_parameters():
        assert value.dtype is (torch.float32 if value.requires_grad else torch.bfloat16), name


def forgets_to_freeze(model: GPT2) -> None:
    model.requires_grad_(True)


def trains_nothing(model: GPT2) -> None:
    model.requires_grad_(False)


@pytest.mark.parametrize("bug", [forgets_to_freeze, trains_nothing])
@pytest.mark.parametrize("method", ADAPTING)
def test_the_laws_see_a_method_that_breaks_them(method: str, bug: Callable[[GPT2], None]) -> None:
    """The count is what catches a method that freezes too little or too much."""
    model = prepared(method)
    bug(model)
    found = sum(value.numel() for value in trained(model).values())
    assert found != count(TINY, config_of(method), CLASSES).trainable


SHARED = {"adapted_layers", "freezing", "targets", "peft_format", "portions"}


@pytest.mark.parametrize("method", METHODS)
def test_a_method_imports_no_other_method_but_those_that_it_extends(method: str) -> None:
    """A method `foo` is `foo.py` and, beside it, modules called `foo_*`."""
    module = importlib.import_module(METHODS[method].partition(":")[0])
    file = Path(str(module.__file__))
    known = {name.rpartition(".")[2] for name in (kind.__module__ for kind in method_class(method).__mro__)}
    for own in [file, *file.parent.glob(f"{file.stem}_*.py")]:
        imported = re.findall(r"from explora\.core\.methods\.(\w+) import", own.read_text(encoding="utf-8"))
        strangers = {
            name
            for name in imported
            if not any(name == stem or name.startswith(f"{stem}_") for stem in known)
        }
        assert strangers <= SHARED, own


def test_last_linear_without_a_head_is_refused() -> None:
    with pytest.raises(UsageError, match="needs a task with a linear head"):
        apply(GPT2(TINY), config_of("last-linear"))


# --- LoRA -----------------------------------------------------------------------------------------


def adapters(model: GPT2) -> dict[str, LoRALinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}


def draw_b(model: GPT2) -> None:
    """Give every B numbers: zeros would hide whatever A does."""
    generator = torch.Generator().manual_seed(9)
    for layer in adapters(model).values():
        layer.lora_B.data.normal_(std=0.3, generator=generator)


@pytest.mark.parametrize(
    "targets", [*((name,) for name in TARGETS), SEPARATE, FUSED, ("key", "value")], ids=",".join
)
def test_adapters_sit_on_the_targets_and_nowhere_else(targets: tuple[str, ...]) -> None:
    model = prepared("lora", targets=targets)
    paths = {TARGETS[target][0] for target in targets}
    assert adapters(model).keys() == {f"h.{layer}.{path}" for layer in range(TINY.n_layer) for path in paths}


def by_definition(layer: LoRALinear, x: Tensor) -> Tensor:
    """y = x W + b + scale x A^T B^T on the columns of each part (Hu et al. 2021, section 4.1)."""
    y = x @ layer.base_layer.weight + layer.base_layer.bias
    span, rank = layer.lora_B.shape[1:]
    update = torch.zeros_like(y)
    for index, part in enumerate(layer.parts):
        a, b = layer.lora_A[index * rank : (index + 1) * rank], layer.lora_B[index]
        update[..., part * span : (part + 1) * span] = x @ a.t() @ b.t()
    return y + layer.scale * update


@pytest.mark.parametrize("parts", [None, (0,), (1,), (2,), (1, 2), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("rank", [1, 3])
def test_outputs_and_gradients_are_those_of_the_definition(parts: tuple[int, ...] | None, rank: int) -> None:
    torch.manual_seed(2)
    base = Conv1D(6, 12)
    nn.init.normal_(base.weight)
    nn.init.normal_(base.bias)
    layer = LoRALinear(base.requires_grad_(False), parts, rank, scale=5.0 / rank)
    layer.lora_B.data.normal_()
    results = []
    for forward in (layer.forward, lambda x: by_definition(layer, x)):
        x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(3)).requires_grad_(True)
        y = forward(x)
        (y * torch.arange(12)).sum().backward()
        results.append((y.detach(), x.grad, layer.lora_A.grad, layer.lora_B.grad))
        layer.zero_grad(set_to_none=True)
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("bug", ["scale", "part", "rank"])
def test_the_definition_sees_a_planted_bug(bug: str) -> None:
    torch.manual_seed(2)
    base = randomise(GPT2(TINY)).h[0].attn.c_attn.requires_grad_(False)
    layer = LoRALinear(base, (1, 2), 2, scale=5.0 / 2)
    layer.lora_B.data.normal_()
    x = torch.randn(4, TINY.n_embd)
    expected = by_definition(layer, x)
    if bug == "scale":
        layer.scale = 5.0  # alpha instead of alpha / rank
    elif bug == "part":
        layer.parts = (0, 2)
    else:
        layer.lora_A.data = layer.lora_A.data.roll(1, dims=0)
    assert not torch.allclose(layer(x), expected, atol=1e-3)


def test_backward_in_double_precision_is_the_derivative() -> None:
    """Against finite differences: the hand-written backward pass, for a part in the middle."""
    base = Conv1D(3, 6).double().requires_grad_(False)
    nn.init.normal_(base.weight)
    nn.init.zeros_(base.bias)
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    a = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    b = torch.randn(1, 2, 2, dtype=torch.float64, requires_grad=True)

    def through(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return _AddLowRank.apply(base(x), x, a, b, (1,), 0.7)

    assert torch.autograd.gradcheck(through, (x, a, b))


def test_separate_adapters_are_the_fused_one_when_they_share_a() -> None:
    """One adapter on c_attn is three on its parts with the same A."""
    torch.manual_seed(2)
    base = randomise(GPT2(TINY)).h[0].attn.c_attn.requires_grad_(False)
    fused = LoRALinear(base, None, 2)
    separate = LoRALinear(base, (0, 1, 2), 2)
    fused.lora_B.data.normal_()
    separate.lora_A.data = fused.lora_A.data.repeat(3, 1)
    separate.lora_B.data = fused.lora_B.data.view(3, TINY.n_embd, 2)
    x = torch.randn(4, TINY.n_embd)
    torch.testing.assert_close(separate(x), fused(x))


def test_a_starts_as_pefts_and_b_at_zero() -> None:
    """Kaiming-uniform with a = sqrt(5): uniform within 1 / sqrt(in)."""
    for layer in adapters(prepared("lora", rank=8)).values():
        bound = layer.lora_A.shape[1] ** -0.5
        assert 0.8 * bound < float(layer.lora_A.detach().abs().max()) <= bound
        assert not layer.lora_B.detach().any()


def test_dropout_is_on_the_adapters_input_and_in_training_alone() -> None:
    plain, dropping = prepared("lora"), prepared("lora", lora_dropout=0.5)
    draw_b(plain)
    draw_b(dropping)
    with torch.no_grad():
        plain.eval(), dropping.eval()
        assert torch.equal(dropping(IDS), plain(IDS))
        dropping.train()
        assert not torch.allclose(dropping(IDS), dropping(IDS))
        layer = dropping.h[0].attn.c_attn
        layer.lora_B.data.zero_()
        x = torch.randn(4, TINY.n_embd)
        assert torch.equal(layer(x), layer.base_layer(x))  # the base's own path drops nothing


def test_merging_is_done_in_fp32_and_cast_last() -> None:
    torch.manual_seed(2)
    base = randomise(GPT2(TINY)).h[0].attn.c_attn.bfloat16().requires_grad_(False)
    layer = LoRALinear(base, (1, 2), 2)
    layer.lora_B.data.normal_(std=1e-3)
    exact = base.weight.float()
    for index, part in enumerate((1, 2)):
        columns = slice(part * TINY.n_embd, (part + 1) * TINY.n_embd)
        low = layer.lora_B.detach()[index] @ layer.lora_A.detach()[2 * index : 2 * index + 2]
        exact[:, columns] += layer.scale * low.t()
    assert torch.equal(layer.merged().weight, exact.bfloat16())


@pytest.mark.parametrize("layers", [Blocks([0]), Blocks([1, 2]), Blocks([0, 2])], ids=str)
def test_the_backward_pass_stops_at_the_first_adapted_block(layers: Blocks) -> None:
    model = prepared("lora", layers=layers)
    assert {int(name.split(".")[1]) for name in adapters(model)} == {*layers}
    reached: dict[int, bool] = {}
    for number, block in enumerate(model.h):
        block.register_forward_hook(
            lambda _block, _given, output, number=number: reached.update({number: output.requires_grad})
        )
    loss_of(model).backward()
    assert reached == {number: number >= layers[0] for number in range(TINY.n_layer)}


def test_merging_only_some_blocks_leaves_the_others() -> None:
    model = prepared("lora", layers=Blocks.parse("1-1"))
    draw_b(model)
    with torch.no_grad():
        expected = model(IDS)
        merge_layers(model)
        torch.testing.assert_close(model(IDS), expected, rtol=1e-5, atol=1e-5)
    untouched = base_model()
    assert torch.equal(model.h[0].attn.c_attn.weight, untouched.h[0].attn.c_attn.weight)
    assert not torch.equal(model.h[1].attn.c_attn.weight, untouched.h[1].attn.c_attn.weight)


def test_merging_twice_is_merging_once() -> None:
    model = prepared("lora")
    draw_b(model)
    merge_layers(model)
    merged = copy.deepcopy(model.state_dict())
    merge_layers(model)
    assert all(torch.equal(value, merged[name]) for name, value in model.state_dict().items())
