"""peft reads our adapters, and we read peft's: the same logits both ways, and planted bugs are seen."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file
from torch import Tensor

from explora.core.config.method import Method
from explora.core.config.precedence import resolve
from explora.core.config.registry import METHODS as METHOD_NAMES
from explora.core.config.values import Blocks
from explora.core.methods.dora import DoRA
from explora.core.methods.lora import LoRA
from explora.core.methods.lora_plus import LoRAPlus
from explora.core.methods.rslora import RSLoRA
from explora.core.runs.adapter import ADAPTER_FILE, CONFIG_FILE
from explora.core.runs.open import open_run
from explora.core.runs.record import RunRecord, write_record
from explora.errors import AdapterError
from tests.tiny_adapters import (
    IN_FP32,
    SHAPE,
    causal,
    change_config,
    change_tensors,
    classifier,
    our_logits,
    their_logits,
    write_base,
    write_run,
)
from tests.tiny_models import make_method

TOLERANCE = 1e-5
SEEN = 1e-2  # a planted bug moves a logit by more
LABELS = ("0", "1", "2")
ALL_SEPARATE = ("query", "key", "value", "attn-out", "mlp-up", "mlp-down")

# peft asks transformers 5 by an old name; nothing that an adapter could change.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

METHODS = {
    "key,value": LoRA(rank=4, targets=("key", "value")),
    "query,value": LoRA(rank=4, targets=("query", "value"), alpha=3.0),
    "query": LoRA(rank=2, targets=("query",)),
    "c_attn": LoRA(rank=4, targets=("c_attn",), alpha=6.0),
    "all separate": LoRA(rank=2, targets=ALL_SEPARATE, alpha=5.0),
    "one separate and others": LoRA(rank=2, targets=("value", "mlp-up")),
    "all fused": LoRA(rank=2, targets=("c_attn", "attn-out", "mlp-up", "mlp-down")),
    "attn-out": LoRA(rank=3, targets=("attn-out",)),
    "mlp-down": LoRA(rank=3, targets=("mlp-down",), alpha=7.5),
    "mlp-up": LoRA(rank=3, targets=("mlp-up",)),
    "blocks 1-2": LoRA(rank=2, targets=ALL_SEPARATE, layers=Blocks.parse("1-2")),
    "block 0": LoRA(rank=2, targets=("key", "value"), layers=Blocks.parse("0-0")),
    "blocks with a gap": LoRA(rank=2, targets=("query", "mlp-up"), layers=Blocks([0, 2])),
    "ranks by module": LoRA(
        rank=2, targets=ALL_SEPARATE, rank_pattern={"mlp.c_fc": 3, "h.1.attn.c_attn": 4, "h.1.mlp.c_fc": 2}
    ),
    "alphas by module": LoRA(
        rank=2, targets=("key", "value"), alpha=3.0, alpha_pattern={"h.0.attn.c_attn": 5.0}
    ),
    "both by module": LoRA(
        targets=("c_attn", "mlp-down"), rank_pattern={"attn.c_attn": 2}, alpha_pattern={"mlp.c_proj": 9.0}
    ),
    "rank above the width": LoRA(rank=40, targets=("key", "value"), lora_dropout=0.5),
    "rslora": RSLoRA(rank=4, targets=("key", "value")),
    "rslora everywhere": RSLoRA(rank=3, targets=ALL_SEPARATE, alpha=5.0),
    "rslora by module": RSLoRA(
        rank=2, targets=ALL_SEPARATE, rank_pattern={"mlp.c_fc": 3, "h.1.attn.c_attn": 4}
    ),
    "lora-plus": LoRAPlus(rank=4, targets=("key", "value")),
    "dora": DoRA(rank=4, targets=("c_attn", "mlp-down")),
    "dora everywhere": DoRA(rank=2, targets=ALL_SEPARATE, alpha=5.0, layers=Blocks([0, 2])),
    "dora by module": DoRA(rank=2, targets=("attn-out", "mlp-up"), rank_pattern={"mlp.c_fc": 3}),
}
PATHS = {"attn-out": "attn.c_proj", "mlp-up": "mlp.c_fc", "mlp-down": "mlp.c_proj"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def open_with_peft(model: Any, run: Path) -> Any:
    """Load as a user does; an unknown field, a missing or an unexpected key would be a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return PeftModel.from_pretrained(model, run)


def difference(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max())


# Ours, read by peft


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_peft_computes_our_logits(base: Path, tmp_path: Path, method: Method) -> None:
    ours = our_logits(write_run(tmp_path, base, method))
    theirs = their_logits(open_with_peft(causal(base), tmp_path))
    assert difference(ours, theirs) < TOLERANCE
    assert difference(ours, their_logits(causal(base))) > SEEN


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_peft_adapts_what_is_meant_and_nothing_else(base: Path, tmp_path: Path, method: Method) -> None:
    write_run(tmp_path, base, method)
    model = open_with_peft(causal(base), tmp_path)
    layers = method.layers or range(SHAPE.n_layer)
    paths = {PATHS.get(target, "attn.c_attn") for target in method.targets}
    adapted = {name.removesuffix(".lora_A") for name, _ in model.named_modules() if name.endswith(".lora_A")}
    assert adapted == {f"base_model.model.transformer.h.{layer}.{path}" for layer in layers for path in paths}
    held = sum(value.numel() for name, value in model.named_parameters() if "lora_" in name)
    assert held == sum(value.numel() for value in load_file(tmp_path / ADAPTER_FILE).values())


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_we_read_our_own_again(base: Path, tmp_path: Path, method: Method) -> None:
    model = write_run(tmp_path, base, method)
    session = open_run("text", str(tmp_path), model=str(base), tokenizer=None, runtime=IN_FP32)
    assert session.method == method
    assert torch.equal(our_logits(session.model), our_logits(model))


@pytest.mark.parametrize(
    "targets", [("key", "value"), ("c_attn", "mlp-down"), ALL_SEPARATE], ids=lambda targets: ",".join(targets)
)
def test_peft_computes_our_class_logits(base: Path, tmp_path: Path, targets: tuple[str, ...]) -> None:
    method = LoRA(rank=2, targets=targets)
    ours = our_logits(write_run(tmp_path, base, method, "sentiment", LABELS))
    theirs = their_logits(open_with_peft(classifier(base, len(LABELS)), tmp_path))
    assert difference(ours, theirs) < TOLERANCE
    session = open_run("sentiment", str(tmp_path), model=str(base), tokenizer=None, runtime=IN_FP32)
    assert torch.equal(our_logits(session.model), ours)


def test_a_cloze_has_no_head_in_peft(base: Path, tmp_path: Path) -> None:
    method = LoRA(rank=2, targets=("key", "value"))
    ours = our_logits(write_run(tmp_path, base, method, "paraphrase", ("0", "1")))
    assert PeftConfig.from_pretrained(tmp_path).task_type == "CAUSAL_LM"
    assert difference(ours, their_logits(open_with_peft(causal(base), tmp_path))) < TOLERANCE


def test_the_configuration_has_old_and_stable_fields_alone(base: Path, tmp_path: Path) -> None:
    write_run(tmp_path, base, METHODS["all separate"])
    written = json.loads((tmp_path / CONFIG_FILE).read_text(encoding="utf-8"))
    read = PeftConfig.from_pretrained(tmp_path)
    in_peft_0_5 = {
        *("peft_type", "task_type", "base_model_name_or_path", "inference_mode", "r", "lora_alpha"),
        *("lora_dropout", "target_modules", "fan_in_fan_out", "bias", "modules_to_save", "init_lora_weights"),
        *("layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern"),
    }
    assert written.keys() == in_peft_0_5
    for name in written.keys() - {"target_modules"}:
        assert getattr(read, name) == written[name], name
    assert read.target_modules == set(written["target_modules"])


def in_halves(value: Tensor) -> tuple[Tensor, Tensor]:
    middle = len(value) // 2
    return value[:middle], value[middle:]


def stack_a_backwards(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: torch.cat(in_halves(value)[::-1]) if "lora_A" in name else value
        for name, value in tensors.items()
    }


def put_key_in_query_s_place(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: value.roll(-SHAPE.n_embd, dims=0) if "lora_B" in name else value
        for name, value in tensors.items()
    }


BUGS: dict[str, Callable[[Path], None]] = {
    "alpha is not doubled": lambda run: change_config(run, lora_alpha=8.0),
    "the rank is not doubled in the scale": lambda run: change_config(run, use_rslora=True),
    "A is stacked in the wrong order": lambda run: change_tensors(run, stack_a_backwards),
    "the key's rows of B are in the query's place": lambda run: change_tensors(run, put_key_in_query_s_place),
    "blocks are missing": lambda run: change_config(run, layers_to_transform=[0, 1], layers_pattern="h"),
}


@pytest.mark.parametrize("plant", BUGS.values(), ids=BUGS)
@pytest.mark.filterwarnings("ignore:Found missing adapter keys")
def test_the_comparison_sees_a_planted_bug(base: Path, tmp_path: Path, plant: Callable[[Path], None]) -> None:
    ours = our_logits(write_run(tmp_path, base, METHODS["key,value"]))
    plant(tmp_path)
    assert difference(ours, their_logits(PeftModel.from_pretrained(causal(base), tmp_path))) > SEEN


# Ours, loaded and saved by peft

THROUGH_PEFT = {
    f"{name} on {','.join(targets)}": method
    for name in METHOD_NAMES
    for targets in (("key", "value"), ("c_attn", "mlp-down"), ALL_SEPARATE)
    if (method := make_method(name, targets=targets)).peft_config() is not None and hasattr(method, "targets")
}


@pytest.mark.parametrize("method", THROUGH_PEFT.values(), ids=THROUGH_PEFT)
def test_what_went_through_peft_is_still_the_same_model(base: Path, tmp_path: Path, method: Method) -> None:
    ours = our_logits(write_run(tmp_path / "ours", base, method))
    open_with_peft(causal(base), tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    session = open_run("text", str(tmp_path / "theirs"), model=str(base), tokenizer=None, runtime=IN_FP32)
    assert session.header is None
    assert difference(our_logits(session.model), ours) < TOLERANCE


def test_the_comparison_sees_an_alpha_that_peft_lost(base: Path, tmp_path: Path) -> None:
    ours = our_logits(write_run(tmp_path / "ours", base, METHODS["key,value"]))
    open_with_peft(causal(base), tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    change_config(tmp_path / "theirs", lora_alpha=8)
    session = open_run("text", str(tmp_path / "theirs"), model=str(base), tokenizer=None, runtime=IN_FP32)
    assert difference(our_logits(session.model), ours) > SEEN


def test_a_run_keeps_its_task_and_template_when_peft_saves_it(base: Path, tmp_path: Path) -> None:
    """Its header is gone, its run.json is not."""
    run, _ = resolve("paraphrase", {"model": str(base), "template": "{sentence1} {sentence2}? "})
    ours = our_logits(write_run(tmp_path, base, METHODS["key,value"], "paraphrase", ("0", "1")))
    write_record(tmp_path, RunRecord(run=run, result={}, machine={}))
    open_with_peft(causal(base), tmp_path).save_pretrained(tmp_path)
    session = open_run("paraphrase", str(tmp_path), model=None, tokenizer=None, runtime=IN_FP32)
    assert session.encoding.template == "{sentence1} {sentence2}? "
    assert difference(our_logits(session.model), ours) < TOLERANCE
    with pytest.raises(AdapterError, match="was trained for paraphrase, not for text"):
        open_run("text", str(tmp_path), model=None, tokenizer=None, runtime=IN_FP32)
