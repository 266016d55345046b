"""Adapters of PEFT that explora does not compute: refused with the reason, and with a way out that works."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, TrainableTokensConfig, get_peft_model
from torch import Tensor

from explora.core.base.find import open_base
from explora.core.config.method import Method
from explora.core.methods import lora_peft, peft_format
from explora.core.methods.lora import LoRA
from explora.core.runs.adapter import CONFIG_FILE
from explora.core.runs.assemble import Session
from explora.core.runs.foreign_adapter import read_foreign
from explora.core.runs.open import open_run
from explora.errors import AdapterError
from tests.tiny_adapters import (
    IN_FP32,
    SHAPE,
    causal,
    change_config,
    change_tensors,
    our_logits,
    run_commands_in,
    save_with_peft,
    their_logits,
    train_with_peft,
    write_base,
    write_run,
)

PEFT_SETTINGS: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["c_attn"]}
TOLERANCE = 1e-5
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "tiny")


def method_in(folder: Path, base: Path) -> Method:
    """The method that the configuration in a folder describes."""
    return read_foreign(folder, {}, open_base(str(base))).method


def open_adapter(folder: Path, base: Path, task: str = "text") -> Session:
    return open_run(task, str(folder), model=str(base), tokenizer=str(base), runtime=IN_FP32)


# Configurations

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "aLoRA": ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens [1] (words in the prompt switch"),
    "LoHa": ({"peft_type": "LOHA"}, "peft_type 'LOHA'"),
    "another bias": ({"bias": "boft_only"}, "bias 'boft_only'"),
    "a bias of B": ({"lora_bias": True}, "lora_bias True (B has a bias)"),
    "rows of the embedding": ({"trainable_token_indices": [3]}, "trainable_token_indices [3]"),
    "Megatron": ({"megatron_config": {"a": 1}}, "megatron_config {'a': 1}"),
    "a pattern that is none": ({"rank_pattern": ["c_attn"]}, "rank_pattern ['c_attn'] is not an object"),
    "a broken pattern": ({"alpha_pattern": {"c_attn(": 4}}, "alpha_pattern: "),
    "a broken target": ({"target_modules": ".*(c_attn"}, "target_modules: '.*(c_attn' is not a regular"),
    "rank 0 by pattern": ({"rank_pattern": {"c_attn": 0}}, "rank-pattern: attn.c_attn must be positive"),
    "PiSSA moves the base": ({"init_lora_weights": "pissa_niter_4"}, "changes the base as well"),
    "OLoRA moves the base": ({"init_lora_weights": "olora"}, "init_lora_weights 'olora'"),
    "CorDA moves the base": ({"init_lora_weights": "corda"}, "init_lora_weights 'corda'"),
    "a field to come": ({"use_magic": 3}, "use_magic 3"),
    "an unknown module": ({"target_modules": ["q_proj"]}, "['q_proj'] names no module that explora adapts"),
    "no modules": ({"target_modules": []}, "target_modules [] names no module"),
    "a number for modules": ({"target_modules": 3}, "target_modules 3 is neither a list"),
    "a rank that is no number": ({"r": "eight"}, "'eight'"),
    "rank 0": ({"r": 0}, "rank must be at least 1"),
    "alpha 0": ({"lora_alpha": 0}, "alpha must be a positive number"),
    "blocks that the base lacks": ({"layers_to_transform": [7, 9]}, "names no module"),
    "blocks that are no numbers": ({"layers_to_transform": ["0"]}, "layers_to_transform ['0'] is neither"),
    "saved modules that are a number": ({"modules_to_save": 3}, "modules_to_save 3 is neither"),
    "two reasons": ({"lora_bias": True, "bias": "some"}, "bias 'some', lora_bias True"),
}


@pytest.mark.parametrize(("changes", "expected"), REFUSED.values(), ids=REFUSED)
def test_what_explora_cannot_compute_is_refused(
    base: Path, tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    file = tmp_path / CONFIG_FILE
    file.write_text(json.dumps(PEFT_SETTINGS), encoding="utf-8")
    assert method_in(tmp_path, base) == LoRA(rank=2, alpha=4.0, targets=("c_attn",))
    file.write_text(json.dumps(PEFT_SETTINGS | changes), encoding="utf-8")
    with pytest.raises(AdapterError) as caught:
        method_in(tmp_path, base)
    assert expected in caught.value.message
    assert str(file) in caught.value.message


@pytest.mark.parametrize(
    "text", ['{"fine_tune_type": "lora", "lora_parameters": {"rank": 8}}', "[]", "null", "3"]
)
def test_what_is_no_peft_configuration_is_refused(base: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / CONFIG_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(AdapterError, match="has no peft_type: it is not a PEFT adapter"):
        method_in(tmp_path, base)


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe"])
def test_an_unreadable_configuration_is_refused(base: Path, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / CONFIG_FILE).write_bytes(content)
    with pytest.raises(AdapterError, match=f"{re.escape(CONFIG_FILE)} is not readable"):
        method_in(tmp_path, base)


@pytest.mark.parametrize("field", dataclasses.fields(LoraConfig), ids=lambda field: field.name)
def test_every_field_of_peft_is_read_or_refused(
    base: Path, tmp_path: Path, field: dataclasses.Field[Any]
) -> None:
    config = LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True)
    config.save_pretrained(tmp_path)
    method_in(tmp_path, base)  # as peft writes it
    if field.name in lora_peft.READ | peft_format.READ:
        # peft's own mark of what computes something else
        assert "is_lora_variant" not in field.metadata or field.name in lora_peft.VARIANTS
        return
    change_config(tmp_path, **{field.name: "something"})
    with pytest.raises(AdapterError, match=f"{field.name} 'something'"):
        method_in(tmp_path, base)


# The way out


MERGED_BY_PEFT: dict[str, Any] = {
    "B has a bias": LoraConfig(task_type="CAUSAL_LM", target_modules=["c_fc"], lora_bias=True),
    "an adapter on positions": LoraConfig(task_type="CAUSAL_LM", target_modules=["wpe", "c_attn"]),
    "a norm that is trained": LoraConfig(
        task_type="CAUSAL_LM", target_modules=["c_attn"], modules_to_save=["ln_f"]
    ),
    "rows of the embedding": TrainableTokensConfig(task_type="CAUSAL_LM", token_indices=[3, 5]),
}


@pytest.mark.parametrize("config", MERGED_BY_PEFT.values(), ids=MERGED_BY_PEFT)
@pytest.mark.filterwarnings("ignore")
def test_the_hint_merges_what_explora_does_not_compute(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Any
) -> None:
    theirs = their_logits(save_with_peft(tmp_path / "adapter", base, config))
    with pytest.raises(AdapterError) as caught:
        open_adapter(tmp_path / "adapter", base)
    monkeypatch.chdir(tmp_path)
    run_commands_in(caught.value.hint)
    session = open_run("text", "merged", model=None, tokenizer=None, runtime=IN_FP32)
    assert float((our_logits(session.model) - theirs).abs().max()) < TOLERANCE


@pytest.mark.filterwarnings("ignore")
def test_a_classifier_is_merged_with_its_head(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = LoraConfig(task_type="SEQ_CLS", target_modules=["c_fc"], lora_bias=True)
    theirs = their_logits(save_with_peft(tmp_path / "adapter", base, config, classes=3))
    with pytest.raises(AdapterError) as caught:
        open_adapter(tmp_path / "adapter", base, "sentiment")
    monkeypatch.chdir(tmp_path)
    run_commands_in(caught.value.hint)
    session = open_run("sentiment", "merged", model=None, tokenizer=None, runtime=IN_FP32)
    assert float((our_logits(session.model) - theirs).abs().max()) < TOLERANCE


def test_what_peft_cannot_merge_gets_no_commands(base: Path, tmp_path: Path) -> None:
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    get_peft_model(causal(base), config).save_pretrained(tmp_path)
    with pytest.raises(AdapterError, match="peft_type 'PROMPT_TUNING'") as caught:
        open_adapter(tmp_path, base)
    assert "cannot merge" in caught.value.hint


@pytest.mark.parametrize("module", ["wte", "lm_head"])
@pytest.mark.filterwarnings("ignore")
def test_an_adapter_on_the_embedding_or_the_head_is_refused(base: Path, tmp_path: Path, module: str) -> None:
    save_with_peft(tmp_path, base, LoraConfig(task_type="CAUSAL_LM", target_modules=["c_attn", module], r=2))
    with pytest.raises(AdapterError, match=f"has an adapter on {module}; explora's GPT-2 has one") as caught:
        open_adapter(tmp_path, base)
    assert f"train without {module}" in caught.value.hint


# Tensors


@pytest.mark.filterwarnings("ignore")
def test_a_saved_head_is_read_where_it_is_the_embedding(base: Path, tmp_path: Path) -> None:
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["c_attn"], modules_to_save=["lm_head"])
    model = get_peft_model(causal(base), config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_(0, 0.2)
    model.save_pretrained(tmp_path)
    session = open_adapter(tmp_path, base)
    assert float((our_logits(session.model) - their_logits(model)).abs().max()) < TOLERANCE
    change_tensors(tmp_path, lambda t: {n: v + 1e-3 if "lm_head" in n else v for n, v in t.items()})
    with pytest.raises(AdapterError, match=r"lm_head\.weight, which differs from the base's; .* one matrix"):
        open_adapter(tmp_path, base)


def test_magnitudes_without_their_flag_are_refused(base: Path, tmp_path: Path) -> None:
    train_with_peft(tmp_path, base, r=2, target_modules=["c_attn"], use_dora=True)
    open_adapter(tmp_path, base)
    change_config(tmp_path, use_dora=False)
    with pytest.raises(AdapterError, match=r"unexpected .*h\.0\.attn\.c_attn\.lora_magnitude_vector"):
        open_adapter(tmp_path, base)


def test_an_adapter_that_does_nothing_is_refused(base: Path, tmp_path: Path) -> None:
    def with_zero_b(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value * ("lora_B" not in name) for name, value in tensors.items()}

    train_with_peft(tmp_path / "foreign", base, r=2, target_modules=["c_attn"])
    write_run(tmp_path / "own", base, LoRA(rank=2))
    for folder in (tmp_path / "foreign", tmp_path / "own"):
        change_tensors(folder, with_zero_b)
        with pytest.raises(AdapterError, match="every lora_B is zero"):
            open_adapter(folder, base)


def test_a_number_that_is_not_finite_is_named(base: Path, tmp_path: Path) -> None:
    train_with_peft(tmp_path, base, r=2, target_modules=["c_attn"])
    change_tensors(
        tmp_path, lambda t: {n: v / 0 if "h.1" in n and "lora_A" in n else v for n, v in t.items()}
    )
    with pytest.raises(AdapterError, match=r"h\.1\.attn\.c_attn\.lora_A\.weight has a number that is not"):
        open_adapter(tmp_path, base)


def test_a_head_that_the_task_does_not_have_is_unexpected(base: Path, tmp_path: Path) -> None:
    train_with_peft(tmp_path, base, classes=3, r=2, target_modules=["c_attn"])
    with pytest.raises(AdapterError, match=r"unexpected base_model\.model\.score\.weight"):
        open_adapter(tmp_path, base)


def test_a_head_that_the_task_needs_is_missing(base: Path, tmp_path: Path) -> None:
    train_with_peft(tmp_path, base, r=2, target_modules=["c_attn"])
    with pytest.raises(AdapterError, match="score"):
        open_adapter(tmp_path, base, "sentiment")


def test_modules_that_the_configuration_does_not_name_are_unexpected(base: Path, tmp_path: Path) -> None:
    train_with_peft(tmp_path, base, r=2, target_modules=["c_attn", "c_fc"])
    for modules, number in (
        (["transformer.h.0.attn.c_attn", "transformer.h.1.mlp.c_fc"], 8),
        (["c_attn", "c_fc", "c_proj"], 12),
    ):
        change_config(tmp_path, target_modules=modules)
        with pytest.raises(AdapterError, match=f"{number} (unexpected|missing) tensors"):
            open_adapter(tmp_path, base)


def test_blocks_that_the_base_does_not_have_are_refused(base: Path, tmp_path: Path) -> None:
    train_with_peft(tmp_path, base, r=2, target_modules=["c_attn"])
    change_tensors(tmp_path, lambda t: {name.replace("h.2.", "h.11."): value for name, value in t.items()})
    with pytest.raises(AdapterError, match=f"adapts block 11; .* has blocks 0-{SHAPE.n_layer - 1}"):
        open_adapter(tmp_path, base)


def test_another_architecture_is_the_cause(base: Path, tmp_path: Path) -> None:
    train_with_peft(tmp_path, base, r=2, target_modules=["c_attn"])
    change_tensors(
        tmp_path, lambda t: {n.replace("attn.c_attn", "self_attn.q_proj"): v for n, v in t.items()}
    )
    with pytest.raises(AdapterError, match="6 missing, 6 unexpected tensors") as caught:
        open_adapter(tmp_path, base)
    assert "another architecture than GPT-2" in caught.value.hint


def test_another_revision_of_the_base_is_told(base: Path, tmp_path: Path) -> None:
    train_with_peft(tmp_path, base, r=2, target_modules=["c_attn"], revision="e7da7f2")
    open_adapter(tmp_path, base)  # whoever names the base knows its revision
    with pytest.raises(AdapterError, match="names the revision 'e7da7f2'") as caught:
        open_run("text", str(tmp_path), model=None, tokenizer=str(base), runtime=IN_FP32)
    assert "--revision e7da7f2" in caught.value.hint
