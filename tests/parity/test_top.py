"""Top-k fine-tuning against transformers with its last blocks trained: curve, counts, folder, merging."""

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
from explora.core.config.precedence import resolve
from explora.core.config.registry import MODELS
from explora.core.estimate.parameters import count
from explora.core.methods.top import Top
from explora.core.model.gpt2 import GPT2
from explora.core.runs.adapter import ADAPTER_FILE
from explora.core.runs.merge import merge_run
from explora.core.runs.open import open_run
from explora.errors import AdapterError, UsageError
from tests.loss_curves import CLOSE, our_curve, their_curve
from tests.tiny_adapters import IN_FP32, SHAPE, causal, our_logits, their_logits, write_base, write_run

TOLERANCE, SEEN = 1e-5, 1e-2
BLOCKS = [1, 2, 3]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "tiny")


def prepared(base: Path, method: Top) -> GPT2:
    model = load_model(open_base(str(base)), dtype=torch.float32, device=torch.device("cpu"))
    method.apply(model)
    return model


def top(model: Any, blocks: int, norm: bool = True) -> list[nn.Parameter]:
    chosen = [*model.transformer.h[-blocks:], *([model.transformer.ln_f] if norm else [])]
    return [value for module in chosen for value in module.parameters()]


def is_matrix(value: nn.Parameter) -> bool:
    return value.dim() == 2


@pytest.mark.parametrize("blocks", BLOCKS)
def test_twenty_steps_are_those_of_transformers(base: Path, blocks: int) -> None:
    ours, theirs = prepared(base, Top(blocks=blocks)), causal(base)
    curve = our_curve(ours, Top(blocks=blocks))
    assert curve == pytest.approx(their_curve(theirs, top(theirs, blocks), is_matrix), rel=CLOSE)
    assert float((our_logits(ours) - their_logits(theirs)).abs().max()) < TOLERANCE


ORACLES_BUGS: dict[str, Callable[[Any], list[float]]] = {
    "a block less": lambda model: their_curve(model, top(model, 1), is_matrix),
    "a block more": lambda model: their_curve(model, top(model, 3), is_matrix),
    "the final norm stays": lambda model: their_curve(model, top(model, 2, norm=False), is_matrix),
    "nothing decays": lambda model: their_curve(model, top(model, 2)),
    "all decays": lambda model: their_curve(model, top(model, 2), lambda _: True),
}


@pytest.mark.parametrize("bug", ORACLES_BUGS.values(), ids=ORACLES_BUGS)
def test_the_curves_differ_for_a_planted_bug(base: Path, bug: Callable[[Any], list[float]]) -> None:
    assert our_curve(prepared(base, Top()), Top()) != pytest.approx(bug(causal(base)), rel=CLOSE)


@pytest.mark.parametrize("name", MODELS)
def test_as_much_is_trained_as_transformers_has_there(name: str) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.device("meta"):
        theirs = GPT2LMHeadModel(GPT2Config(**vars(MODELS[name].shape)))
    counted = count(MODELS[name].shape, Top(blocks=3))
    assert counted.trainable == sum(value.numel() for value in top(theirs, 3))
    assert counted.total == sum(value.numel() for value in theirs.parameters())  # nothing counts twice


def test_the_folder_holds_the_blocks_alone_and_is_read_back(base: Path, tmp_path: Path) -> None:
    model = write_run(tmp_path, base, Top(blocks=1))
    assert {file.name for file in tmp_path.iterdir()} == {ADAPTER_FILE}
    stored = {name.removeprefix("base_model.model.") for name in load_file(tmp_path / ADAPTER_FILE)}
    last = f"transformer.h.{SHAPE.n_layer - 1}."
    assert stored == {name for name, _ in causal(base).named_parameters() if last in name or "ln_f" in name}
    session = open_run("text", str(tmp_path), model=str(base), tokenizer=None, runtime=IN_FP32)
    assert session.method == Top(blocks=1)
    assert torch.equal(our_logits(session.model), our_logits(model))


def test_transformers_computes_what_blocks_and_base_did(base: Path, tmp_path: Path) -> None:
    ours = our_logits(write_run(tmp_path / "run", base, Top()))
    merged = merge_run(tmp_path / "run", tmp_path / "merged", model=str(base))
    theirs = their_logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"))
    assert float((ours - theirs).abs().max()) < 1e-4  # random blocks of deviation 0.3: logits of about 10
    assert merged.argmax_flips == 0
    assert float((their_logits(causal(base)) - theirs).abs().max()) > SEEN


def test_more_blocks_than_the_base_has_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--blocks 4: the base has 3 blocks"):
        Top(blocks=4).check_fit(SHAPE)
    with pytest.raises(UsageError, match="blocks must be at least 1"):
        resolve("text", {"method": "top", "blocks": 0})
    write_run(tmp_path, base, Top(blocks=3))
    smaller = write_base(tmp_path / "other", seed=1)
    with pytest.raises(AdapterError, match="another base"):
        open_run("text", str(tmp_path), model=str(smaller), tokenizer=None, runtime=IN_FP32)
