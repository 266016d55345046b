"""BitFit against transformers with nothing but its biases trained: curve, counts, folder, merged model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

from explora.core.base.find import open_base
from explora.core.base.weights import load_model
from explora.core.config.registry import MODELS
from explora.core.estimate.parameters import count
from explora.core.methods.bitfit import BitFit
from explora.core.model.gpt2 import GPT2
from explora.core.runs.adapter import ADAPTER_FILE
from explora.core.runs.merge import merge_run
from explora.core.runs.open import open_run
from tests.loss_curves import CLOSE, our_curve, their_curve
from tests.tiny_adapters import IN_FP32, causal, our_logits, their_logits, write_base, write_run

TOLERANCE, SEEN = 1e-5, 1e-2


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "tiny")


def prepared(base: Path) -> GPT2:
    model = load_model(open_base(str(base)), dtype=torch.float32, device=torch.device("cpu"))
    BitFit().apply(model)
    return model


def biases(model: Any, without: str = "-") -> list[nn.Parameter]:
    named = model.named_parameters()
    return [value for name, value in named if name.endswith("bias") and without not in name]


def test_twenty_steps_are_those_of_transformers(base: Path) -> None:
    ours, theirs = prepared(base), causal(base)
    curve = our_curve(ours, BitFit())
    assert curve == pytest.approx(their_curve(theirs, biases(theirs)), rel=CLOSE)
    assert float((our_logits(ours) - their_logits(theirs)).abs().max()) < TOLERANCE


ORACLES_BUGS: dict[str, Callable[[Any], list[float]]] = {
    "norms stay": lambda model: their_curve(model, biases(model, without="ln_")),
    "attention's projection stays": lambda model: their_curve(model, biases(model, without="c_attn")),
    "the final norm stays": lambda model: their_curve(model, biases(model, without="ln_f")),
    "biases decay": lambda model: their_curve(model, biases(model), decayed=lambda _: True),
}


@pytest.mark.parametrize("bug", ORACLES_BUGS.values(), ids=ORACLES_BUGS)
def test_the_curves_differ_for_a_planted_bug(base: Path, bug: Callable[[Any], list[float]]) -> None:
    assert our_curve(prepared(base), BitFit()) != pytest.approx(bug(causal(base)), rel=CLOSE)


@pytest.mark.parametrize("name", MODELS)
def test_as_much_is_trained_as_there_are_biases(name: str) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.device("meta"):
        theirs = GPT2LMHeadModel(GPT2Config(**vars(MODELS[name].shape)))
    counted = count(MODELS[name].shape, BitFit())
    assert counted.trainable == sum(value.numel() for value in biases(theirs))
    assert counted.total == sum(value.numel() for value in theirs.parameters())  # nothing counts twice


def test_the_folder_holds_the_biases_alone_and_is_read_back(base: Path, tmp_path: Path) -> None:
    model = write_run(tmp_path, base, BitFit())
    assert {file.name for file in tmp_path.iterdir()} == {ADAPTER_FILE}
    names = {name.removeprefix("base_model.model.") for name in load_file(tmp_path / ADAPTER_FILE)}
    assert names == {name for name, _ in causal(base).named_parameters() if name.endswith("bias")}
    session = open_run("text", str(tmp_path), model=str(base), tokenizer=None, runtime=IN_FP32)
    assert session.method == BitFit()
    assert torch.equal(our_logits(session.model), our_logits(model))


def test_transformers_computes_what_biases_and_base_did(base: Path, tmp_path: Path) -> None:
    ours = our_logits(write_run(tmp_path / "run", base, BitFit()))
    merged = merge_run(tmp_path / "run", tmp_path / "merged", model=str(base))
    theirs = their_logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"))
    assert float((ours - theirs).abs().max()) < TOLERANCE
    assert merged.argmax_flips == 0
    assert float((their_logits(causal(base)) - theirs).abs().max()) > SEEN
