"""What a base says beside its weights survives merging and full fine-tuning, as transformers reads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
)

from explora.core.config.method import Method
from explora.core.methods.last_linear import LastLinear
from explora.core.methods.lora import LoRA
from explora.core.runs import assemble
from explora.core.runs.merge import merge_run
from explora.core.runs.train import start_run
from tests.tiny_adapters import SHAPE, our_logits, their_logits, write_base, write_run
from tests.tiny_models import finish, tiny_run

END, TEXT = "<|im_end|>", "<|im_start|>The winter<|im_end|>\n<|endoftext|>"
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
CHANGED = {"_name_or_path", "architectures", "dtype", "torch_dtype", "id2label", "label2id", "problem_type"}
LORA = LoRA(rank=2, targets=("c_attn",))


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with tokens, a template, dropout and sampling defaults of its own, as transformers saves it."""
    folder = write_base(tmp_path_factory.mktemp("base") / "chat")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"], "eos_token": END})
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    settings = {"attn_pdrop": 0.0, "resid_pdrop": 0.3, "reorder_and_upcast_attn": True, "pad_token_id": 3}
    special = {"bos_token_id": 299, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    shape = vars(SHAPE) | {"vocab_size": 304}
    model = GPT2LMHeadModel(GPT2Config(**shape, **settings, **special, my_note="über"))
    sampling = {"do_sample": True, "temperature": 0.7, "max_length": 40}
    model.generation_config = GenerationConfig(**special, **sampling)
    model.save_pretrained(folder)
    return folder


def settings_of(folder: Path) -> dict[str, Any]:
    """Return all that transformers reads from a folder beside the weights."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = AutoConfig.from_pretrained(folder).to_dict()
    return {
        "config": {name: value for name, value in config.items() if name not in CHANGED},
        "generation": GenerationConfig.from_pretrained(folder).to_dict(),
        "ids": tokenizer(TEXT).input_ids,
        "special": tokenizer.special_tokens_map,
        "chat": tokenizer.apply_chat_template([{"content": "hi", "role": "user"}], tokenize=False),
    }


def merged(method: Method, task: str) -> Callable[[Path, Path, Path], Path]:
    def make(base: Path, data: Path, folder: Path) -> Path:
        model = write_run(folder / "run", base, method, task, ("a", "b"))
        merge_run(folder / "run", folder / "merged", model=str(base))
        classifies = model.score is not None
        kind = AutoModelForSequenceClassification if classifies else AutoModelForCausalLM
        theirs = their_logits(kind.from_pretrained(folder / "merged"))
        assert (our_logits(model) - theirs).abs().max() < 1e-5
        return folder / "merged"

    return make


def trained_in_full(task: str) -> Callable[[Path, Path, Path], Path]:
    def make(base: Path, data: Path, folder: Path) -> Path:
        run = tiny_run(base, data, task, method="full", max_steps=1, max_length=24)
        finish(start_run(run, folder / "run"))
        return folder / "run"

    return make


WAYS = {
    "a merged adapter": merged(LORA, "text"),
    "a merged classifier": merged(LORA, "sentiment"),
    "a merged head": merged(LastLinear(), "sentiment"),
    "full fine-tuning": trained_in_full("text"),
    "full fine-tuning of a classifier": trained_in_full("sentiment"),
}
Make = Callable[[Path, Path, Path], Path]


@pytest.mark.parametrize("make", WAYS.values(), ids=WAYS)
def test_the_settings_of_the_base_stay(chat: Path, tiny_data: Path, tmp_path: Path, make: Make) -> None:
    assert settings_of(make(chat, tiny_data, tmp_path)) == settings_of(chat)


def test_the_comparison_sees_settings_that_are_written_anew(
    chat: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted bug: a configuration of explora's own."""
    write = assemble.write_model
    monkeypatch.setattr(
        assemble, "write_model", lambda *args, **options: write(*args, **options | {"base": None})
    )
    found = settings_of(merged(LORA, "text")(chat, tiny_data, tmp_path))
    assert {name for name, value in settings_of(chat).items() if found[name] != value} == {
        "config",
        "generation",
    }


def test_a_language_model_from_a_classifier_has_no_classes(
    chat: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """And a classifier of a base without padding gets a token for it."""
    classifier = tmp_path / "classifier"
    base = tmp_path / "base"
    GPT2LMHeadModel.from_pretrained(chat).save_pretrained(base)
    AutoTokenizer.from_pretrained(chat).save_pretrained(base)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    (base / "config.json").write_text(json.dumps(config | {"pad_token_id": None}), encoding="utf-8")
    trained = trained_in_full("sentiment")(base, tiny_data, classifier)
    assert AutoConfig.from_pretrained(trained).pad_token_id == 299
    assert len(AutoConfig.from_pretrained(trained).id2label) == 5
    again = trained_in_full("text")(trained, tiny_data, tmp_path)
    written = json.loads((again / "config.json").read_text(encoding="utf-8"))
    assert written["architectures"] == ["GPT2LMHeadModel"]
    assert not {"id2label", "label2id", "problem_type"} & written.keys()
