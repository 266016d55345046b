"""rsLoRA, LoRA+, DoRA and trained biases against peft: twenty steps, gradients, counts and merged weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from explora.core.base.find import open_base
from explora.core.base.weights import load_model
from explora.core.bench import run as bench_run
from explora.core.bench.measurements import Contender
from explora.core.bench.plan import Plan
from explora.core.config.concerns import OptimizerConfig
from explora.core.config.registry import MODELS
from explora.core.config.values import Blocks
from explora.core.estimate.parameters import count
from explora.core.methods import dora_layers
from explora.core.methods.dora import DoRA
from explora.core.methods.dora_layers import DoRALinear
from explora.core.methods.lora import LoRA
from explora.core.methods.lora_layers import LoRALinear
from explora.core.methods.lora_peft import config_of
from explora.core.methods.lora_plus import LoRAPlus
from explora.core.methods.rslora import RSLoRA
from explora.core.model.gpt2 import GPT2, Conv1D
from explora.core.runs.adapter import CONFIG_FILE
from explora.core.runs.merge import merge_run
from explora.core.runs.open import open_run
from explora.core.training.checkpoint import trained_tensors
from explora.core.training.optimizers import make_optimizers
from tests.cells_here import ask_here
from tests.loss_curves import CLOSE, RATE, our_curve, their_curve, their_curve_by
from tests.tiny_adapters import (
    IN_FP32,
    SHAPE,
    causal,
    change_config,
    change_tensors,
    our_logits,
    their_logits,
    write_base,
    write_run,
)
from tests.tiny_models import tiny_run

TOLERANCE, SEEN = 1e-5, 1e-2
MERGE_TOLERANCE = 5e-5  # merged weights are rounded once more, which these large adapters amplify
# peft asks transformers 5 by an old name; nothing that an adapter could change.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

WHOLE = ("c_attn", "attn-out", "mlp-up", "mlp-down")
SEPARATE = ("query", "key", "value", "attn-out", "mlp-up", "mlp-down")
METHODS: dict[str, LoRA] = {
    "rslora": RSLoRA(rank=3, targets=SEPARATE),
    "lora-plus": LoRAPlus(rank=3, targets=WHOLE, lr_ratio=4.0),
    "lora-plus with biases": LoRAPlus(rank=2, targets=("key", "value"), bias="all"),
    "dora": DoRA(rank=3, targets=WHOLE),
    "dora on parts": DoRA(rank=3, targets=("query", "value")),
    "dora in some blocks": DoRA(rank=2, targets=SEPARATE, layers=Blocks([0, 2]), alpha=3.0),
    "dora with biases": DoRA(rank=2, targets=("c_attn", "mlp-down"), bias="all"),
    "dora on parts with their biases": DoRA(rank=2, targets=("key",), bias="lora-only"),
    "lora with its biases": LoRA(rank=2, targets=("key", "mlp-up"), bias="lora-only"),
    "lora with all biases": LoRA(rank=2, targets=("value",), layers=Blocks([1]), bias="all"),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "tiny")


def difference(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max())


def prepared(base: Path, method: LoRA) -> GPT2:
    torch.manual_seed(1)
    model = load_model(open_base(str(base)), dtype=torch.float32, device=torch.device("cpu"))
    method.apply(model)
    return model


def pefts(base: Path, method: LoRA, ours: GPT2) -> Any:
    """The same method in peft, from the same start.

    Adapters on parts of c_attn are one of joint rank there: what belongs to no part gets no gradient.
    """
    model = get_peft_model(causal(base), LoraConfig(task_type="CAUSAL_LM", **config_of(method)))
    theirs = {
        name.removeprefix("base_model.model.transformer.").replace(".default", ""): value
        for name, value in model.named_parameters()
    }
    own = trained_tensors(ours)
    masks = method.to_file({name: torch.ones_like(value) for name, value in own.items()})
    for name, value in method.to_file(own).items():
        found = theirs[name + ".weight" if name.endswith("lora_magnitude_vector") else name]
        mask = masks[name] if found.shape == value.shape else mask_of_parts(method)
        found.data[mask.bool()] = value[mask.bool()] if found.shape == value.shape else value
        found.register_hook(mask.mul)
    return model


def mask_of_parts(method: LoRA) -> Tensor:
    """One for the columns of c_attn that have magnitudes, zero for the others."""
    parts = method.modules()["attn.c_attn"]
    assert parts is not None
    return torch.zeros(3, SHAPE.n_embd).index_fill_(0, torch.tensor(parts), 1.0).flatten()


def peft_s_curve(theirs: Any, method: LoRA) -> list[float]:
    """The twenty losses of peft, by the optimizer that it has for the method."""
    if isinstance(method, LoRAPlus):
        return their_curve_by(pefts_optimizer(theirs, method), theirs)
    return their_curve(theirs, [value for value in theirs.parameters() if value.requires_grad])


def pefts_optimizer(theirs: Any, method: LoRAPlus) -> Any:
    return create_loraplus_optimizer(theirs, torch.optim.AdamW, lr=RATE, loraplus_lr_ratio=method.lr_ratio)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_twenty_steps_are_those_of_peft(base: Path, method: LoRA) -> None:
    ours = prepared(base, method)
    theirs = pefts(base, method, ours)
    assert our_curve(ours, method) == pytest.approx(peft_s_curve(theirs, method), rel=CLOSE)
    assert difference(our_logits(ours), their_logits(theirs)) < 5 * TOLERANCE  # after steps that round
    assert difference(our_logits(ours), their_logits(causal(base))) > SEEN


def norms_of_the_base(layer: DoRALinear) -> Tensor:
    return layer.base_squares.sqrt()


def norms_without_the_square(layer: DoRALinear) -> Tensor:
    return (layer.base_squares + (NORMS(layer) ** 2 - layer.base_squares) / 2).sqrt()


NORMS = DoRALinear._compute_norms
BUGS: dict[str, tuple[Any, str, Any, LoRA]] = {
    "rslora divides by the rank": (RSLoRA, "divisor", staticmethod(LoRA.divisor), METHODS["rslora"]),
    "B learns like A": (LoRAPlus, "rate_factor", LoRA.rate_factor, METHODS["lora-plus"]),
    "norms of the base alone": (DoRALinear, "_compute_norms", norms_of_the_base, METHODS["dora"]),
    "norms of half the update": (DoRALinear, "_compute_norms", norms_without_the_square, METHODS["dora"]),
    "the bias is rescaled too": (
        dora_layers._Rescale,
        "apply",
        lambda y, m, norms, bias, parts, apply=dora_layers._Rescale.apply: apply(
            y, m, norms, torch.zeros_like(bias), parts
        ),
        METHODS["dora"],
    ),
    "the biases stay": (
        LoRA,
        "rate_factor",
        lambda self, name: float("bias" not in name),
        METHODS["lora with all biases"],
    ),
}


@pytest.mark.parametrize(("place", "name", "bug", "method"), BUGS.values(), ids=BUGS)
def test_the_curves_differ_for_a_planted_bug(
    base: Path, monkeypatch: pytest.MonkeyPatch, place: Any, name: str, bug: Any, method: LoRA
) -> None:
    ours = prepared(base, method)
    theirs = pefts(base, method, ours)
    expected = peft_s_curve(theirs, method)
    monkeypatch.setattr(place, name, bug)
    ours = prepared(base, method)
    assert our_curve(ours, method) != pytest.approx(expected, rel=CLOSE)


# LoRA+: the groups of the optimizer


@pytest.mark.parametrize("bias", ["none", "all"])
def test_the_groups_and_rates_are_those_of_peft(base: Path, bias: str) -> None:
    method = LoRAPlus(rank=2, targets=WHOLE, bias=bias)
    ours = prepared(base, method)
    theirs = pefts(base, method, ours)
    config = OptimizerConfig(learning_rate=RATE, weight_decay=0.0)
    (optimizer,) = make_optimizers(ours, method, config)
    assert rates(ours, optimizer) == rates(theirs, pefts_optimizer(theirs, method))
    assert set(rates(ours, optimizer).values()) == {RATE, 16 * RATE}


def rates(model: nn.Module, optimizer: Any) -> dict[str, float]:
    """The learning rate of each trained parameter, by the name that both stacks have for it."""
    names = {id(value): name for name, value in model.named_parameters()}
    return {
        names[id(value)].removeprefix("base_model.model.transformer.").removesuffix(".default.weight"): group[
            "lr"
        ]
        for group in optimizer.param_groups
        for value in group["params"]
    }


# DoRA: the layer


def filled(parts: tuple[int, ...] | None, dtype: torch.dtype = torch.float32) -> DoRALinear:
    """A layer in which every number counts."""
    generator = torch.Generator().manual_seed(2)
    base = Conv1D(10, 12).requires_grad_(False)
    base.weight.data.normal_(generator=generator)
    base.bias.data.normal_(generator=generator)
    layer = DoRALinear(base.to(dtype), parts, 3, scale=1.7)
    layer.lora_A.data.normal_(generator=generator)
    layer.lora_B.data.normal_(generator=generator)
    layer.lora_magnitude_vector.data.mul_(1.3).add_(0.1)
    return layer


def by_definition(layer: DoRALinear, x: Tensor) -> Tensor:
    """m (W + s (B A)^T) / ||W + s (B A)^T||, with the norm detached (Liu et al. 2024, equations 5 and 11)."""
    size, rank = layer.lora_B.shape[1:]
    y = list((x @ layer.base_layer.weight).split(size, dim=1))
    weights = list(layer.base_layer.weight.split(size, dim=1))
    for index, part in enumerate(layer.parts):
        a, b = layer.lora_A[index * rank : (index + 1) * rank], layer.lora_B[index]
        adapted = weights[part] + layer.scale * (b @ a).t()
        y[part] = x @ (adapted * (layer.lora_magnitude_vector[index] / adapted.norm(dim=0).detach()))
    return torch.cat(y, dim=1) + layer.base_layer.bias


@pytest.mark.parametrize("parts", [None, (0,), (1, 2), (0, 2), (0, 1, 2)])
def test_outputs_and_gradients_are_those_of_the_definition(parts: tuple[int, ...] | None) -> None:
    layer = filled(parts)
    layer.base_layer.bias.requires_grad_(True)
    results = []
    for forward in (layer.forward, lambda x: by_definition(layer, x)):
        x = torch.randn(7, 10, generator=torch.Generator().manual_seed(3)).requires_grad_(True)
        y = forward(x)
        (y * torch.arange(12)).sum().backward()
        trained = [value.grad for value in layer.parameters() if value.requires_grad]
        results.append((y.detach(), x.grad, *trained))
        layer.zero_grad(set_to_none=True)
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_are_those_of_the_whole_matrix(dtype: torch.dtype, packed: bool) -> None:
    layer = filled((0, 2), dtype)
    whole = LoRALinear.adapted_weight(filled((0, 2), dtype)).float()
    if packed:
        layer.base_layer.pack(dtype, passes_gradient=False)
    expected = torch.stack([whole[:, :4], whole[:, 8:]]).norm(dim=1)
    torch.testing.assert_close(layer.norms(), expected, rtol=1e-6 if dtype is torch.float32 else 3e-3, atol=0)


def test_norms_follow_weights_that_are_loaded_or_trained() -> None:
    layer = filled(None).eval()
    with torch.no_grad():
        before = layer.norms()
        assert layer.norms() is before  # kept while nothing changes
        layer.lora_B.copy_(2 * layer.lora_B)
        assert not torch.allclose(layer.norms(), before)
    layer.train()
    assert layer.norms() is not layer.norms()


def test_a_small_step_of_a_magnitude_is_not_lost_in_half_precision() -> None:
    y, norms, bias = torch.full((2, 4), 3.0, dtype=torch.bfloat16), torch.ones(1, 4), torch.zeros(4)
    rescaled = dora_layers._Rescale.apply(y.clone(), norms + 0.0035, norms, bias, (0,))
    assert torch.equal(rescaled, (y.float() * (norms + 0.0035)).bfloat16())
    assert not torch.equal(rescaled, y * (norms + 0.0035).bfloat16())


def test_some_parts_have_no_form_in_peft(base: Path, tmp_path: Path) -> None:
    method = DoRA(rank=2, targets=("key", "value"))
    model = write_run(tmp_path, base, method)
    assert not (tmp_path / CONFIG_FILE).exists()
    session = open_run("text", str(tmp_path), model=str(base), tokenizer=None, runtime=IN_FP32)
    assert session.method == method
    assert torch.equal(our_logits(session.model), our_logits(model))


# All of them


@pytest.mark.parametrize("name", ["lora with its biases", "lora with all biases", "dora with biases"])
def test_peft_reads_trained_biases(base: Path, tmp_path: Path, name: str) -> None:
    ours = our_logits(write_run(tmp_path, base, METHODS[name]))
    theirs = their_logits(PeftModel.from_pretrained(causal(base), tmp_path))
    assert difference(ours, theirs) < TOLERANCE
    session = open_run("text", str(tmp_path), model=str(base), tokenizer=None, runtime=IN_FP32)
    assert session.method == METHODS[name]
    assert torch.equal(our_logits(session.model), ours)


def forget_biases(run: Path) -> None:
    change_tensors(run, lambda t: {n: torch.zeros_like(v) if n.endswith("bias") else v for n, v in t.items()})


def forget_the_variant(run: Path) -> None:
    change_config(run, use_dora=False)


@pytest.mark.parametrize("plant", [forget_biases, forget_the_variant])
@pytest.mark.filterwarnings("ignore:Found")
def test_the_comparison_sees_a_planted_bug(base: Path, tmp_path: Path, plant: Callable[[Path], None]) -> None:
    ours = our_logits(write_run(tmp_path, base, METHODS["dora with biases"]))
    plant(tmp_path)
    theirs = PeftModel.from_pretrained(causal(base), tmp_path)
    assert difference(ours, their_logits(theirs)) > SEEN


@pytest.mark.parametrize("name", METHODS)
def test_transformers_computes_what_adapter_and_base_did(base: Path, tmp_path: Path, name: str) -> None:
    ours = our_logits(write_run(tmp_path / "run", base, METHODS[name]))
    merged = merge_run(tmp_path / "run", tmp_path / "merged", model=str(base))
    theirs = their_logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"))
    assert difference(ours, theirs) < MERGE_TOLERANCE
    assert merged.argmax_flips == 0


COUNTED = [
    RSLoRA(rank=8, targets=("c_attn",)),
    LoRAPlus(rank=8, targets=WHOLE, bias="lora-only"),
    DoRA(rank=8, targets=WHOLE),
    DoRA(rank=4, targets=("c_attn", "mlp-up"), layers=Blocks([3]), bias="all"),
]


@pytest.mark.parametrize("method", COUNTED, ids=lambda method: method.description)
@pytest.mark.parametrize("name", ["gpt2", "gpt2-medium"])
def test_as_much_is_trained_as_peft_trains(name: str, method: LoRA) -> None:
    shape = MODELS[name].shape
    with torch.device("meta"):
        config = LoraConfig(task_type="CAUSAL_LM", **config_of(method))
        model = get_peft_model(GPT2LMHeadModel(GPT2Config(**vars(shape))), config, low_cpu_mem_usage=True)
    theirs = sum(value.numel() for value in model.parameters() if value.requires_grad)
    assert count(shape, method).trainable == theirs


@pytest.mark.parametrize("method", ["rslora", "lora-plus", "dora"])
def test_bench_measures_it_beside_peft(
    tiny_base: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(bench_run, "ask", ask_here)
    run = tiny_run(tiny_base, tiny_data, "paraphrase", method=method)
    plan = Plan(contenders=(Contender(run=run),), repeats=1, steps=2, peer=True)
    bench = bench_run.open_bench(plan, tmp_path)
    list(bench.measure())
    own, theirs = bench.result().rows
    assert (own.name, theirs.name) == (f"{method} r=8", f"{method} r=8 (peft)")
    assert (own.error, theirs.error) == (None, None)
    assert theirs.first_loss == pytest.approx(theirs.reference_loss, abs=1e-5)
