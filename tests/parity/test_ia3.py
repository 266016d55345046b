"""IA3 against peft: the same logits both ways, gradients, counts and merged weights; beside it in bench."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import IA3Config, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from explora.core.bench import run as bench_run
from explora.core.bench.measurements import Contender
from explora.core.bench.plan import Plan
from explora.core.config.registry import MODELS
from explora.core.config.values import Blocks
from explora.core.estimate.parameters import count
from explora.core.methods import ia3_layers
from explora.core.methods.ia3 import IA3
from explora.core.runs.merge import merge_run
from explora.core.runs.open import open_run
from explora.errors import AdapterError
from tests.cells_here import ask_here
from tests.tiny_adapters import (
    IDS,
    IN_FP32,
    adapted,
    causal,
    change_config,
    change_tensors,
    our_logits,
    save_with_peft,
    their_logits,
    write_base,
    write_run,
)
from tests.tiny_models import tiny_run

TOLERANCE, SEEN = 1e-5, 1e-2
# peft asks transformers 5 by an old name; nothing that an adapter could change.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

METHODS = {
    "the default": IA3(),
    "key alone": IA3(targets=("key",)),
    "c_attn": IA3(targets=("c_attn",)),
    "all": IA3(targets=("query", "key", "value", "attn-out", "mlp-up", "mlp-down")),
    "inner alone": IA3(targets=("mlp-down",)),
    "a gap": IA3(layers=Blocks([0, 2])),
}
FOREIGN = IA3Config(
    task_type="CAUSAL_LM",
    target_modules=["c_attn", "mlp.c_proj"],
    feedforward_modules=["mlp.c_proj"],
    fan_in_fan_out=True,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "tiny")


def difference(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max())


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_peft_computes_our_logits(base: Path, tmp_path: Path, method: IA3) -> None:
    ours = our_logits(write_run(tmp_path, base, method))
    theirs = their_logits(PeftModel.from_pretrained(causal(base), tmp_path))
    assert difference(ours, theirs) < TOLERANCE
    assert difference(ours, their_logits(causal(base))) > SEEN


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_our_own_is_read_back(base: Path, tmp_path: Path, method: IA3) -> None:
    model = write_run(tmp_path, base, method)
    session = open_run("text", str(tmp_path), model=str(base), tokenizer=None, runtime=IN_FP32)
    assert session.method == method
    assert torch.equal(our_logits(session.model), our_logits(model))


BUGS: dict[str, Callable[[Path], None]] = {
    "one block's vectors are lost": lambda run: change_tensors(
        run, lambda t: {name: torch.ones_like(v) if "h.1." in name else v for name, v in t.items()}
    ),
    "key and value change places": lambda run: change_tensors(
        run, lambda t: {n: v.view(3, -1)[[0, 2, 1]].view(-1, 1) if "c_attn" in n else v for n, v in t.items()}
    ),
}


@pytest.mark.parametrize("plant", BUGS.values(), ids=BUGS)
def test_the_comparison_sees_a_planted_bug(base: Path, tmp_path: Path, plant: Callable[[Path], None]) -> None:
    ours = our_logits(write_run(tmp_path, base, IA3()))
    plant(tmp_path)
    assert difference(ours, their_logits(PeftModel.from_pretrained(causal(base), tmp_path))) > SEEN


def test_the_gradients_are_peft_s(base: Path, tmp_path: Path) -> None:
    """Of c_attn's vector, and of the inner one, after the same loss."""
    method = IA3(targets=("c_attn", "mlp-down"))
    model = write_run(tmp_path, base, method)
    theirs = PeftModel.from_pretrained(causal(base), tmp_path, is_trainable=True)
    theirs(input_ids=IDS, labels=IDS).loss.backward()
    logits = model.logits(model(IDS))[:, :-1]
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), IDS[:, 1:].flatten()).backward()
    own = dict(model.named_parameters())
    for name, value in theirs.named_parameters():
        if not value.requires_grad:
            continue
        key = name.removeprefix("base_model.model.transformer.").removesuffix(".default")
        found = own[key].grad
        assert found is not None and value.grad is not None
        torch.testing.assert_close(found.flatten(), value.grad.flatten(), rtol=1e-4, atol=1e-6)


def test_backward_in_double_precision_is_the_derivative() -> None:
    y, scale = (torch.randn(*size, dtype=torch.float64, requires_grad=True) for size in ((4, 6), (2, 2)))
    x, inner = (torch.randn(*size, dtype=torch.float64, requires_grad=True) for size in ((4, 3), (3,)))
    assert torch.autograd.gradcheck(
        lambda y, s: ia3_layers._ScaleColumns.apply(y.clone(), s, (0, 2)), (y, scale)
    )
    assert torch.autograd.gradcheck(ia3_layers._ScaleInput.apply, (x, inner))


def test_a_small_step_from_one_is_not_lost_in_half_precision() -> None:
    scale = torch.full((1, 4), 1.001)
    y = torch.full((2, 4), 3.0, dtype=torch.bfloat16)
    many = ia3_layers._ScaleColumns.apply(y.clone(), scale + 0.01, (0,))
    assert not torch.equal(many, y)
    assert torch.equal(many, (y.float() * (scale + 0.01)).bfloat16())


@pytest.mark.parametrize("name", ["gpt2", "gpt2-medium"])
def test_as_much_is_trained_as_peft_trains(name: str) -> None:
    shape = MODELS[name].shape
    config = IA3Config(
        task_type="CAUSAL_LM",
        target_modules=["c_attn", "mlp.c_proj"],
        feedforward_modules=["mlp.c_proj"],
        fan_in_fan_out=True,
    )
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.device("meta"):
        model = get_peft_model(GPT2LMHeadModel(GPT2Config(**vars(shape))), config, low_cpu_mem_usage=True)
    theirs = sum(value.numel() for value in model.parameters() if value.requires_grad)
    assert count(shape, IA3(targets=("c_attn", "mlp-down"))).trainable == theirs
    assert count(shape, IA3()).trainable == shape.n_layer * 6 * shape.n_embd


@pytest.mark.parametrize("method", [METHODS["the default"], METHODS["all"]])
def test_transformers_computes_what_adapter_and_base_did(base: Path, tmp_path: Path, method: IA3) -> None:
    ours = our_logits(write_run(tmp_path / "run", base, method))
    merged = merge_run(tmp_path / "run", tmp_path / "merged", model=str(base))
    theirs = their_logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"))
    assert difference(ours, theirs) < TOLERANCE
    assert merged.argmax_flips == 0
    by_peft = PeftModel.from_pretrained(causal(base), tmp_path / "run").merge_and_unload()
    assert difference(their_logits(by_peft), theirs) < TOLERANCE


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an output of the inner product": ({"feedforward_modules": []}, "rescales the input of mlp.c_proj"),
    "an input of attention": ({"feedforward_modules": ["c_attn", "mlp.c_proj"]}, "rescales the input of"),
    "an output of the inner product in one block": (
        {"feedforward_modules": ["h.0.mlp.c_proj", "h.2.mlp.c_proj"]},
        "rescales the input of mlp.c_proj",
    ),
}


@pytest.mark.parametrize(("changes", "told"), REFUSED.values(), ids=REFUSED)
def test_what_explora_cannot_compute_is_refused(
    base: Path, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    save_with_peft(tmp_path, base, FOREIGN)
    change_config(tmp_path, **changes)
    with pytest.raises(AdapterError, match=told):
        open_run("text", str(tmp_path), model=str(base), tokenizer=None, runtime=IN_FP32)


def test_vectors_of_ones_are_refused_where_they_are_foreign(base: Path, tmp_path: Path) -> None:
    save_with_peft(tmp_path, base, FOREIGN)
    change_tensors(tmp_path, lambda t: {name: torch.ones_like(value) for name, value in t.items()})
    with pytest.raises(AdapterError, match="every ia3_l is one"):
        open_run("text", str(tmp_path), model=str(base), tokenizer=None, runtime=IN_FP32)


def test_numbers_outside_the_targets_are_refused(base: Path, tmp_path: Path) -> None:
    write_run(tmp_path, base, IA3())
    change_tensors(tmp_path, lambda t: {n: v * 2 if "c_attn" in n else v for n, v in t.items()})
    with pytest.raises(
        AdapterError, match="has nonzero numbers outside the adapters ia3 on key, value, mlp-down"
    ):
        open_run("text", str(tmp_path), model=str(base), tokenizer=None, runtime=IN_FP32)


def test_bench_measures_it_beside_peft(
    tiny_base: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_run, "ask", ask_here)
    run = tiny_run(tiny_base, tiny_data, "paraphrase", method="ia3")
    bench = bench_run.open_bench(
        Plan(contenders=(Contender(run=run),), repeats=1, steps=2, peer=True), tmp_path
    )
    list(bench.measure())
    own, theirs = bench.result().rows
    assert (own.name, theirs.name) == ("ia3", "ia3 (peft)")
    assert (own.error, theirs.error) == (None, None)
    assert theirs.first_loss == pytest.approx(theirs.reference_loss, abs=1e-5)
    assert own.trainable == count(adapted_shape(tiny_base), IA3()).trainable
    assert json.dumps(own.to_json())
    assert peft.__version__ in theirs.stack


def adapted_shape(base: Path) -> Any:
    from explora.core.base.find import open_base

    return open_base(str(base)).shape


def test_the_start_is_the_base(base: Path) -> None:
    model = adapted(base, IA3())
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("ia3_l"):
                value.fill_(1.0)
    assert difference(our_logits(model), their_logits(causal(base))) < TOLERANCE
