"""What merge-lora writes: transformers and peft compute the same; what does not is never left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from explora.core.base.find import WEIGHTS
from explora.core.base.tokenizer import load_tokenizer
from explora.core.config.method import Method
from explora.core.config.registry import PARAPHRASE_TEMPLATE
from explora.core.methods.last_linear import LastLinear
from explora.core.methods.lora import LoRA
from explora.core.methods.lora_layers import LoRALinear
from explora.core.model.gpt2 import Conv1D
from explora.core.runs import assemble as session
from explora.core.runs import merge as merging
from explora.core.runs.logit_check import PROBE
from explora.core.runs.merge import Merged, merge_run
from explora.core.runs.open import open_run
from explora.errors import AdapterError, UsageError
from tests.tiny_adapters import (
    IN_FP32,
    causal,
    our_logits,
    their_logits,
    train_with_peft,
    write_base,
    write_run,
)

TOLERANCE = 1e-5
LABELS = ("bad", "fair", "good")
KEY_VALUE = LoRA(rank=2, targets=("key", "value"))
ALL_SEPARATE = LoRA(rank=2, targets=("query", "key", "value", "attn-out", "mlp-up", "mlp-down"))
LAST_LINEAR = LastLinear()

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def merge(run: Path, folder: Path, base: Path, **options: Any) -> Merged:
    return merge_run(run, folder, model=str(base), **options)


def difference(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max())


# The same function


@pytest.mark.parametrize("task", ["text", "sonnet", "paraphrase"])
@pytest.mark.parametrize("method", [KEY_VALUE, ALL_SEPARATE, LoRA(rank=3, targets=("c_attn",))])
def test_transformers_computes_what_adapter_and_base_did(
    base: Path, tmp_path: Path, task: str, method: Method
) -> None:
    run, folder = tmp_path / "run", tmp_path / "merged"
    ours = our_logits(write_run(run, base, method, task, ("0", "1") if task == "paraphrase" else ()))
    merged = merge(run, folder, base)
    theirs = their_logits(AutoModelForCausalLM.from_pretrained(folder))
    assert difference(ours, theirs) < TOLERANCE
    assert merged.folder == folder
    assert merged.max_difference < TOLERANCE
    assert merged.argmax_flips == 0
    by_peft = PeftModel.from_pretrained(causal(base), run).merge_and_unload()
    assert difference(their_logits(by_peft), theirs) < TOLERANCE


@pytest.mark.parametrize("method", [KEY_VALUE, LAST_LINEAR])
def test_a_classifier_knows_its_labels(base: Path, tmp_path: Path, method: Method) -> None:
    run, folder = tmp_path / "run", tmp_path / "merged"
    ours = our_logits(write_run(run, base, method, "sentiment", LABELS))
    merged = merge(run, folder, base)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.id2label == dict(enumerate(LABELS))
    assert model.config.label2id == {label: index for index, label in enumerate(LABELS)}
    assert difference(ours, their_logits(model)) < TOLERANCE
    assert merged.compared == len(PROBE)


def test_a_fresh_head_for_paraphrase_is_a_classifier(base: Path, tmp_path: Path) -> None:
    run, folder = tmp_path / "run", tmp_path / "merged"
    ours = our_logits(write_run(run, base, LAST_LINEAR, "paraphrase", ("0", "1")))
    merge(run, folder, base)
    assert (
        difference(ours, their_logits(AutoModelForSequenceClassification.from_pretrained(folder))) < TOLERANCE
    )
    assert "## Prompt" not in (folder / "README.md").read_text(encoding="utf-8")


def test_the_tokenizer_comes_along(base: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "run", base, KEY_VALUE)
    merge(tmp_path / "run", tmp_path / "merged", base)
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path / "merged"), load_tokenizer(base)
    assert theirs(list(PROBE))["input_ids"] == ours.encode_batch(PROBE)
    assert theirs.pad_token_id == ours.eos


def test_an_adapter_of_peft_is_merged(base: Path, tmp_path: Path) -> None:
    run, folder = tmp_path / "peft", tmp_path / "merged"
    settings = {"r": 3, "lora_alpha": 5, "target_modules": ["c_attn", "c_proj", "c_fc"], "use_rslora": True}
    model = train_with_peft(run, base, **settings)
    with pytest.raises(UsageError, match="does not record its task") as caught:
        merge_run(run, folder, tokenizer=str(base))
    assert "--task" in caught.value.hint
    merge_run(run, folder, task="sonnet", tokenizer=str(base))
    assert (
        difference(their_logits(model), their_logits(AutoModelForCausalLM.from_pretrained(folder)))
        < TOLERANCE
    )


def test_the_merged_folder_is_a_run_for_the_same_task_alone(base: Path, tmp_path: Path) -> None:
    run, folder = tmp_path / "run", tmp_path / "merged"
    ours = our_logits(write_run(run, base, KEY_VALUE, "paraphrase", ("0", "1")))
    merge(run, folder, base)
    opened = open_run("paraphrase", str(folder), model=None, tokenizer=None, runtime=IN_FP32)
    assert difference(our_logits(opened.model), ours) < TOLERANCE
    assert (
        opened.encoding
        == open_run("paraphrase", str(run), model=str(base), tokenizer=None, runtime=IN_FP32).encoding
    )
    with pytest.raises(AdapterError, match="was trained for paraphrase, not for sonnet"):
        open_run("sonnet", str(folder), model=None, tokenizer=None, runtime=IN_FP32)


# Half precision


@pytest.mark.parametrize(("dtype", "kind"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_weights_are_merged_in_fp32_and_cast_last(
    base: Path, tmp_path: Path, dtype: str, kind: torch.dtype
) -> None:
    run = tmp_path / "run"
    write_run(run, base, ALL_SEPARATE, "sentiment", LABELS)
    exact, rounded = merge(run, tmp_path / "fp32", base), merge(run, tmp_path / dtype, base, dtype=dtype)
    whole, half = (load_file(tmp_path / name / WEIGHTS) for name in ("fp32", dtype))
    assert whole.keys() == half.keys()
    assert all(torch.equal(half[name], value.to(kind)) for name, value in whole.items())
    config = json.loads((tmp_path / dtype / "config.json").read_text(encoding="utf-8"))
    assert config["dtype"] == str(kind).removeprefix("torch.")
    assert exact.max_difference < TOLERANCE < rounded.max_difference < 1.0


def test_what_rounding_changes_is_told(base: Path, tmp_path: Path) -> None:
    run, close = tmp_path / "run", tmp_path / "close"
    model = causal(base)
    with torch.no_grad():  # pairs of tokens that bf16 cannot tell apart, so the best one changes
        embedding = model.transformer.wte.weight
        pairs = len(embedding) // 2
        embedding[1 : 2 * pairs : 2] = embedding[0 : 2 * pairs : 2] * 1.0005
    model.save_pretrained(close)
    load_tokenizer(base).save(close)
    ours = write_run(run, close, ALL_SEPARATE)
    told = merge(run, tmp_path / "merged", close, dtype="bf16")
    tokenizer = load_tokenizer(base)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").float()
    largest, flips, count = 0.0, 0, 0
    for ids in tokenizer.encode_batch(PROBE):
        row = torch.tensor([ids[: ours.shape.n_positions]])
        before, after = our_logits(ours, row), their_logits(theirs, row)
        largest = max(largest, difference(before, after))
        flips += int((before.argmax(-1) != after.argmax(-1)).sum())
        count += row.numel()
    assert told.max_difference == pytest.approx(largest, abs=1e-5)
    assert (told.argmax_flips, told.compared) == (flips, count)
    assert flips > 0


def test_a_weight_beyond_the_range_of_fp16_is_named(base: Path, tmp_path: Path) -> None:
    large = tmp_path / "large"
    model = causal(base)
    with torch.no_grad():
        model.transformer.h[1].mlp.c_proj.bias[3] = 70_000.0
    model.save_pretrained(large)
    load_tokenizer(base).save(large)
    write_run(tmp_path / "run", large, LAST_LINEAR, "sentiment", LABELS)
    with pytest.raises(AdapterError, match=r"too large for fp16: h\.1\.mlp\.c_proj\.bias$"):
        merge(tmp_path / "run", tmp_path / "merged", large, dtype="fp16")
    assert not (tmp_path / "merged").exists()
    merge(tmp_path / "run", tmp_path / "merged", large, dtype="bf16")


# Planted bugs: each must be seen, and nothing be left behind

Patch = Callable[[pytest.MonkeyPatch], None]


def forget_the_scale(patch: pytest.MonkeyPatch) -> None:
    merged = LoRALinear.merged

    def unscaled(layer: LoRALinear) -> Conv1D:
        layer.scale = 1.0
        return merged(layer)

    patch.setattr(LoRALinear, "merged", unscaled)


def shift_the_parts(patch: pytest.MonkeyPatch) -> None:
    merged = LoRALinear.merged

    def shifted(layer: LoRALinear) -> Conv1D:
        layer.parts = tuple((part + 1) % 3 for part in layer.parts)
        return merged(layer)

    patch.setattr(LoRALinear, "merged", shifted)


def spoil(change: Callable[[dict[str, Tensor]], None]) -> Patch:
    """Return a patch after which the tensors that were written are not those that were meant."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        write = merging.write_trained_model

        def write_and_spoil(own: session.Session, folder: Path, dtype: torch.dtype) -> None:
            write(own, folder, dtype)
            tensors = load_file(folder / WEIGHTS)
            change(tensors)
            save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

        patch.setattr(merging, "write_trained_model", write_and_spoil)

    return plant


def configure(**changes: Any) -> Patch:
    """Return a patch after which config.json says something else."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        write = merging.write_trained_model

        def write_and_change(own: session.Session, folder: Path, dtype: torch.dtype) -> None:
            write(own, folder, dtype)
            file = folder / "config.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | changes), encoding="utf-8")

        patch.setattr(merging, "write_trained_model", write_and_change)

    return plant


def swap_two_biases(tensors: dict[str, Tensor]) -> None:
    one, other = "transformer.h.0.ln_1.bias", "transformer.h.1.ln_1.bias"
    tensors[one], tensors[other] = tensors[other], tensors[one]


def nudge_a_weight(tensors: dict[str, Tensor]) -> None:
    tensors["transformer.h.2.mlp.c_fc.weight"][0, 0] += 0.05


def lose_the_numbers(tensors: dict[str, Tensor]) -> None:
    tensors["transformer.ln_f.weight"][0] = float("nan")


def lose_a_tensor(tensors: dict[str, Tensor]) -> None:
    del tensors["transformer.h.2.mlp.c_fc.weight"]


def add_a_tensor(tensors: dict[str, Tensor]) -> None:
    tensors["transformer.h.2.mlp.c_fc.lora_A"] = torch.ones(2)


BUGS: dict[str, Patch] = {
    "the scale is forgotten": forget_the_scale,
    "key and value are merged into value and query": shift_the_parts,
    "two biases are swapped": spoil(swap_two_biases),
    "a weight moved": spoil(nudge_a_weight),
    "NaN": spoil(lose_the_numbers),
    "a tensor is missing": spoil(lose_a_tensor),
    "a tensor too many": spoil(add_a_tensor),
    "the exact GELU": configure(activation_function="gelu"),
    "another epsilon": configure(layer_norm_epsilon=1e-3),
}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("plant", BUGS.values(), ids=BUGS)
def test_a_planted_bug_leaves_nothing_behind(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: Patch, dtype: str
) -> None:
    write_run(tmp_path / "run", base, KEY_VALUE)
    plant(monkeypatch)
    with pytest.raises(AdapterError):
        merge(tmp_path / "run", tmp_path / "new" / "merged", base, dtype=dtype)
    assert [left.name for left in tmp_path.iterdir()] == ["run"]


def test_a_planted_bug_leaves_the_old_folder_alone(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, folder = tmp_path / "run", tmp_path / "merged"
    write_run(run, base, KEY_VALUE)
    merge(run, folder, base)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    forget_the_scale(monkeypatch)
    with pytest.raises(AdapterError):
        merge(run, folder, base, overwrite=True)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert sorted(left.name for left in tmp_path.iterdir()) == ["merged", "run"]


# The folder


def test_an_occupied_folder_is_refused_and_replaced_whole_when_asked(base: Path, tmp_path: Path) -> None:
    run, folder = tmp_path / "run", tmp_path / "merged"
    write_run(run, base, KEY_VALUE)
    folder.mkdir()
    merge(run, folder, base)  # an empty folder is free
    (folder / "stale.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match="is not empty") as caught:
        merge(run, folder, base)
    assert "--overwrite" in caught.value.hint
    merge(run, folder, base, overwrite=True)
    assert not (folder / "stale.safetensors").exists()
    assert sorted(left.name for left in tmp_path.iterdir()) == ["merged", "run"]


@pytest.mark.parametrize("inside", ["notes.txt", "adapter_config.json", "run.json"])
def test_only_a_merged_model_is_ever_replaced(base: Path, tmp_path: Path, inside: str) -> None:
    run, folder = tmp_path / "run", tmp_path / "other"
    write_run(run, base, KEY_VALUE)
    folder.mkdir()
    (folder / inside).write_text("{}", encoding="utf-8")
    if inside != "notes.txt":
        (folder / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UsageError, match="--overwrite does not replace it"):
        merge(run, folder, base, overwrite=True)
    assert (folder / inside).is_file()


def test_neither_the_base_nor_what_holds_the_run_is_replaced(base: Path, tmp_path: Path) -> None:
    run = tmp_path / "model" / "runs" / "text"
    write_run(run, base, KEY_VALUE)
    (tmp_path / "model" / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UsageError, match="which is an input of the merge"):
        merge(run, tmp_path / "model", base, overwrite=True)
    own = write_base(tmp_path / "base")
    with pytest.raises(UsageError, match="which is an input of the merge"):
        merge(run, tmp_path / "model" / ".." / "base", own, overwrite=True)
    assert run.is_dir()
    assert (own / "model.safetensors").is_file()


def test_a_file_is_no_folder(base: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "run", base, KEY_VALUE)
    (tmp_path / "file").write_text("", encoding="utf-8")
    for overwrite in (False, True):
        with pytest.raises(UsageError):
            merge(tmp_path / "run", tmp_path / "file", base, overwrite=overwrite)


def test_what_is_no_adapter_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="is a whole model, not an adapter"):
        merge(base, tmp_path / "merged", base, task="text")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AdapterError, match="has no adapter"):
        merge(tmp_path / "empty", tmp_path / "merged", base)


def test_the_card_quotes_user_text_as_json(base: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "run", base, KEY_VALUE, "paraphrase", ("0", "1"))
    merge(tmp_path / "run", tmp_path / "merged", base)
    card = (tmp_path / "merged" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: transformers\ntags: [gpt2, paraphrase, explora]\n---\n")
    assert f"\n    {json.dumps(PARAPHRASE_TEMPLATE)}\n" in card
    assert "AutoModelForCausalLM" in card
