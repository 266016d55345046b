"""Optimizers against torch's stepped by hand; who is decayed, who is in which, and the schedule."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from explora.core.config.concerns import OptimizerConfig
from explora.core.config.method import Method
from explora.core.config.registry import METHODS, Shape
from explora.core.model.gpt2 import GPT2
from explora.core.training.adamw import AdamW, Optimizer
from explora.core.training.optimizers import make_optimizers, schedule_factor
from explora.errors import UsageError
from tests.tiny_models import make_method, randomise

TINY = Shape(n_layer=2, n_head=2, n_embd=8, n_positions=12, vocab_size=17)
RATIOS = {("lora-plus", "lora_B"): 16}  # of learning rates, by method and the last part of a name
ALL_TARGETS = ("query", "key", "value", "attn-out", "mlp-up", "mlp-down")


def prepared(method: str) -> GPT2:
    """A model with a score head, made ready by a method."""
    torch.manual_seed(0)
    model = randomise(GPT2(TINY))
    model.score = nn.Linear(TINY.n_embd, 3, bias=False)
    chosen(method).apply(model)
    return model


def chosen(method: str) -> Method:
    return make_method(method, rank=2, targets=ALL_TARGETS)


def trained(model: GPT2) -> dict[str, nn.Parameter]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def decay_by_name(model: GPT2, optimizers: list[Optimizer]) -> dict[str, float]:
    """The weight decay that each trained parameter gets; fails where one is in two groups."""
    names = {id(value): name for name, value in model.named_parameters()}
    found: dict[str, float] = {}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for value in group["params"]:
                assert names[id(value)] not in found
                found[names[id(value)]] = group["weight_decay"]
    return found


def is_base_matrix(name: str) -> bool:
    """Told by name alone, unlike the implementation: the matrices of GPT-2."""
    return name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight", "wte.weight", "wpe.weight"))


def trains_matrices(method: str) -> bool:
    return any(map(is_base_matrix, trained(prepared(method))))


@pytest.mark.parametrize("method", METHODS)
def test_each_trained_parameter_is_in_exactly_one_optimizer(method: str) -> None:
    model = prepared(method)
    found = decay_by_name(model, make_optimizers(model, chosen(method), OptimizerConfig()))
    assert found.keys() == trained(model).keys()


@pytest.mark.parametrize("method", METHODS)
def test_decay_is_on_base_matrices_alone(method: str) -> None:
    model = prepared(method)
    found = decay_by_name(model, make_optimizers(model, chosen(method), OptimizerConfig(weight_decay=0.3)))
    assert found == {name: 0.3 if is_base_matrix(name) else 0.0 for name in trained(model)}


def test_full_training_decays_what_it_should() -> None:
    """The names above are those of this model, so that the test cannot pass on nothing."""
    names = trained(prepared("full"))
    assert sum(map(is_base_matrix, names)) == 4 * TINY.n_layer + 2
    assert {"score.weight", "ln_f.weight", "h.0.attn.c_attn.bias"} <= names.keys()


@pytest.mark.parametrize("method", METHODS)
def test_steps_are_those_of_adamw_by_hand(method: str) -> None:
    config = OptimizerConfig(learning_rate=0.01, weight_decay=0.1, beta1=0.8, beta2=0.95)
    model = prepared(method)
    twin = copy.deepcopy(model)
    optimizers = make_optimizers(model, chosen(method), config)
    generator = torch.Generator().manual_seed(1)
    moments = {name: (torch.zeros_like(v), torch.zeros_like(v)) for name, v in trained(twin).items()}
    for step in range(1, 5):
        for name, value in trained(model).items():
            value.grad = torch.randn(value.shape, generator=generator)
            rate = config.learning_rate * RATIOS.get((method, name.rpartition(".")[2]), 1)
            own = dataclasses.replace(config, learning_rate=rate)
            _adamw_by_hand(name, trained(twin)[name], value.grad, moments[name], step, own)
        for optimizer in optimizers:
            optimizer.step()
    for name, value in model.named_parameters():
        torch.testing.assert_close(value, twin.get_parameter(name), rtol=1e-5, atol=1e-6, msg=name)


def after_steps(optimizer_of: Callable[[list[nn.Parameter]], Optimizer]) -> list[torch.Tensor]:
    """What an optimizer makes of two parameters, one of which has no gradient at first."""
    generator = torch.Generator().manual_seed(3)
    values = [nn.Parameter(torch.randn(5, 7, generator=generator)) for _ in range(2)]
    optimizer = optimizer_of(values)
    for step in range(4):
        values[0].grad = torch.randn(5, 7, generator=generator)
        values[1].grad = torch.randn(5, 7, generator=generator) if step else None
        optimizer.step()
    return [value.detach() for value in values]


def fused(values: list[nn.Parameter], epsilon: float) -> Optimizer:
    groups = [{"params": values[:1], "weight_decay": 0.1}, {"params": values[1:], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.02, betas=(0.8, 0.95), eps=epsilon, fused=True)


def own(values: list[nn.Parameter]) -> Optimizer:
    groups = [{"params": values[:1], "weight_decay": 0.1}, {"params": values[1:], "weight_decay": 0.0}]
    return AdamW(groups, learning_rate=0.02, betas=(0.8, 0.95))


@pytest.mark.parametrize(("epsilon", "equal"), [(1e-8, True), (1e-7, False)])
def test_adamw_has_the_bits_of_torchs(epsilon: float, equal: bool) -> None:
    theirs = after_steps(lambda values: fused(values, epsilon))
    pairs = zip(after_steps(own), theirs, strict=True)
    assert all(torch.equal(mine, other) for mine, other in pairs) is equal


def test_adamw_goes_on_from_its_state() -> None:
    values = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))]
    first = own(values)
    for value in values:
        value.grad = torch.full_like(value, 0.5)
    first.step()
    copies = [nn.Parameter(value.detach().clone()) for value in values]
    second = own(copies)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for value, twin in zip(values, copies, strict=True):
        value.grad, twin.grad = torch.full_like(value, -2.0), torch.full_like(value, -2.0)
    first.step()
    second.step()
    assert all(torch.equal(value, twin) for value, twin in zip(values, copies, strict=True))
    second.zero_grad()
    assert all(twin.grad is None for twin in copies)


@torch.no_grad()
def _adamw_by_hand(
    name: str,
    value: nn.Parameter,
    gradient: torch.Tensor,
    moments: tuple[torch.Tensor, torch.Tensor],
    step: int,
    config: OptimizerConfig,
) -> None:
    """Loshchilov and Hutter 2019, algorithm 2, with decoupled decay."""
    first, second = moments
    first.mul_(config.beta1).add_(gradient, alpha=1 - config.beta1)
    second.mul_(config.beta2).add_(gradient.square(), alpha=1 - config.beta2)
    if is_base_matrix(name):
        value.mul_(1 - config.learning_rate * config.weight_decay)
    unbiased = second.div(1 - config.beta2**step).sqrt().add(1e-8)
    value.sub_(config.learning_rate * first / (1 - config.beta1**step) / unbiased)


def test_muon_takes_the_matrices_of_the_blocks() -> None:
    model = prepared("full")
    muon, adamw = make_optimizers(model, chosen("full"), OptimizerConfig(optimizer="muon", weight_decay=0.2))
    assert isinstance(muon, torch.optim.Muon)
    taken = decay_by_name(model, [muon])
    assert taken == {name: 0.2 for name in trained(model) if is_base_matrix(name) and name.startswith("h.")}
    rest = decay_by_name(model, [adamw])
    assert rest["wte.weight"] == rest["wpe.weight"] == 0.2
    assert rest["h.0.ln_1.weight"] == rest["score.weight"] == 0.0
    assert taken.keys() | rest.keys() == trained(model).keys()


@pytest.mark.parametrize("method", [name for name in METHODS if not trains_matrices(name)])
def test_muon_without_matrices_is_refused(method: str) -> None:
    with pytest.raises(UsageError, match="muon needs a method that trains the matrices of the blocks"):
        make_optimizers(prepared(method), chosen(method), OptimizerConfig(optimizer="muon"))


# --- the schedule ---------------------------------------------------------------------------------


def factors(schedule: str, steps: int, warmup: float) -> list[float]:
    factor = schedule_factor(OptimizerConfig(schedule=schedule, warmup=warmup), steps)
    return [factor(step) for step in range(steps)]


def test_the_linear_schedule() -> None:
    assert factors("linear", 10, 0.2) == pytest.approx(
        [1 / 2, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]
    )


def test_the_cosine_schedule() -> None:
    expected = [1 / 2, 1] + [(1 + math.cos(math.pi * done / 8)) / 2 for done in range(8)]
    assert factors("cosine", 10, 0.2) == pytest.approx(expected)


def test_the_constant_schedule() -> None:
    assert factors("constant", 10, 0.2) == [1 / 2, *[1.0] * 9]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.06, 0.5, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_every_step_learns_and_none_beyond_the_rate(schedule: str, warmup: float, steps: int) -> None:
    values = factors(schedule, steps, warmup)
    assert all(0 < value <= 1 for value in values)
    rise = values[: math.ceil(warmup * steps)]
    assert rise == sorted(rise)
    assert values[len(rise) :] == sorted(values[len(rise) :], reverse=True)
