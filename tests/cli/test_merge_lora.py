"""`explora merge-lora` on runs that `explora train` made: what it prints, writes and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from explora.core.methods.lora import LoRA
from explora.core.methods.lora_layers import LoRALinear
from explora.core.runs.ownership import owning
from tests.conftest import Outcome
from tests.tiny_adapters import train_with_peft, write_base, write_run
from tests.tiny_models import write_tiny_base, write_tiny_data

Explora = Callable[..., Outcome]
LORA = LoRA(rank=2, targets=("key", "value"))

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base and, for each task, train and dev files."""
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_base(folder / "base")
    write_tiny_data(folder / "data")
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def train(explora: Explora, tiny: Path, task: str, *options: str) -> None:
    """Make runs/TASK with a few steps large enough to matter."""
    where = ["--model", str(tiny / "base"), "--data", str(tiny / "data" / task)]
    size = ["--epochs", "1", "--batch-size", "8", "--max-length", "160"]
    how = ["--lr", "0.03", "--amp", "off", "--threads", "1"]
    done = explora("train", task, *where, *size, *how, *options)
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    "arguments", ["paraphrase --lora 4", "sentiment --lora 2", "sentiment --last-linear"]
)
def test_the_merged_model_scores_like_its_run(
    explora: Explora, check_schema: Callable[..., None], tiny: Path, arguments: str
) -> None:
    task, *method = arguments.split()
    train(explora, tiny, task, *method)
    done = explora("merge-lora", f"runs/{task}", "-o", "merged", "--json")
    assert done.code == 0, done.err
    (told,) = done.objects
    check_schema("merge-lora", told)
    assert told["folder"] == "merged"
    assert told["max_difference"] < 1e-5
    assert told["argmax_flips"] == 0
    options = ["--data", str(tiny / "data" / task), "--amp", "off", "--threads", "1", "--json"]
    run, merged = (
        explora("eval", task, source, *options).objects[0] for source in (f"runs/{task}", "merged")
    )
    assert merged["scores"] == pytest.approx(run["scores"], rel=1e-4)


def test_half_precision_in_a_folder_that_did_not_exist(explora: Explora, tiny: Path, tmp_path: Path) -> None:
    train(explora, tiny, "sonnet", "--max-steps", "2", "--layers", "1")
    done = explora("merge-lora", "runs/sonnet", "-o", "new/merged/", "--dtype", "bf16")
    assert done.code == 0, done.err
    assert done.out.startswith("new/merged: bf16; the logits that transformers computes differ by at most ")
    assert done.err == "merging runs/sonnet\n"
    model = AutoModelForCausalLM.from_pretrained("new/merged")
    assert str(model.dtype) == "torch.bfloat16"
    assert sorted(left.name for left in tmp_path.iterdir()) == ["new", "runs"]


def test_labels_that_are_words_become_id2label(explora: Explora, tiny: Path, tmp_path: Path) -> None:
    rows = "".join(f"{word} film,{label}\n" for word, label in [("good", "up"), ("bad", "down")] * 6)
    for split in ("train", "dev"):
        (tmp_path / f"{split}.csv").write_text("sentence,label\n" + rows, encoding="utf-8")
    options = ["--data", "train.csv", "--dev", "dev.csv", "--model", str(tiny / "base"), "--max-steps", "1"]
    assert explora("train", "sentiment", *options, "--amp", "off").code == 0
    assert explora("merge-lora", "runs/sentiment", "-o", "merged", "-q").err == ""
    model = AutoModelForSequenceClassification.from_pretrained("merged")
    assert model.config.id2label == {0: "down", 1: "up"}


def test_a_full_run_is_a_model_already(explora: Explora, tiny: Path) -> None:
    train(explora, tiny, "text", "--full", "--max-steps", "1")
    done = explora("merge-lora", "runs/text", "-o", "merged")
    assert (done.code, done.out) == (1, "")
    assert "error: runs/text is a whole model, not an adapter: there is nothing to merge\n" in done.err
    assert not Path("merged").exists()


def test_without_a_run_the_runs_that_there_are_get_named(explora: Explora, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    done = explora("merge-lora", "-o", "merged")
    assert (done.code, done.out) == (2, "")
    assert "hint: train one first: explora train sonnet" in done.err
    for name in ("one", "two"):
        write_run(tmp_path / "runs" / name, base, LORA)
    (tmp_path / "runs" / "neither").mkdir()
    for arguments in ([], ["runs/three"]):
        done = explora("merge-lora", *arguments, "-o", "merged")
        assert done.code == 2
        hint = "explora merge-lora runs/one -o merged; explora merge-lora runs/two -o merged"
        assert done.err.endswith(f"hint: {hint}\n")


def test_what_the_call_lacks_is_said(explora: Explora, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    write_run(tmp_path / "run", base, LORA)
    done = explora("merge-lora", "run")
    assert (done.code, "-o merged" in done.err) == (2, True)
    train_with_peft(tmp_path / "peft", base, r=2, target_modules=["c_attn"])
    done = explora("merge-lora", "peft", "-o", "merged", "--tokenizer", "base")
    assert (done.code, "add --task TASK" in done.err) == (2, True)
    done = explora("merge-lora", "peft", "-o", "merged", "--tokenizer", "base", "--task", "sonet")
    assert (done.code, "did you mean sonnet?" in done.err) == (2, True)
    done = explora("merge-lora", "peft", "-o", "merged", "--tokenizer", "base", "--task", "sonnet", "--json")
    assert done.code == 0, done.err
    assert done.objects[0]["max_difference"] < 1e-5


def test_a_run_for_another_task_or_base_is_refused(explora: Explora, tmp_path: Path) -> None:
    base, other = write_base(tmp_path / "base"), write_base(tmp_path / "other", seed=1)
    write_run(tmp_path / "run", base, LORA)
    wrong_task = explora("merge-lora", "run", "-o", "merged", "--model", str(base), "--task", "sonnet")
    wrong_base = explora("merge-lora", "run", "-o", "merged", "--model", str(other))
    assert (wrong_task.code, wrong_base.code) == (1, 1)
    assert "was trained for text, not for sonnet" in wrong_task.err
    assert "was trained on another base" in wrong_base.err
    assert not Path("merged").exists()


def test_an_occupied_folder_takes_overwrite(explora: Explora, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    write_run(tmp_path / "run", base, LORA)
    merge = ["merge-lora", "run", "-o", "merged", "--model", "base"]
    assert explora(*merge).code == 0
    (tmp_path / "merged" / "stale").write_text("", encoding="utf-8")
    done = explora(*merge)
    assert done.code == 2
    assert "merged is not empty" in done.err
    assert explora(*merge, "--overwrite").code == 0
    assert not (tmp_path / "merged" / "stale").exists()


def test_a_linked_folder_is_replaced_and_the_link_stays(explora: Explora, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    write_run(tmp_path / "run", base, LORA)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for options in ([], ["--overwrite"]):
        assert explora("merge-lora", "run", "-o", "link", "--model", "base", *options).code == 0
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "real" / "model.safetensors").is_file()
    assert sorted(left.name for left in tmp_path.iterdir()) == ["base", "link", "real", "run"]


def test_folders_in_use_are_refused(
    explora: Explora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("explora.core.runs.ownership.PATIENCE", 0.1)
    write_run(tmp_path / "run", write_base(tmp_path / "base"), LORA)
    for owned in ("run", "merged"):
        with owning(tmp_path / owned):
            refused = explora("merge-lora", "run", "-o", "merged", "--model", "base")
        assert (refused.code, f"error: {owned} is in use by process" in refused.err) == (1, True)
        assert not (tmp_path / "merged").exists()


def test_an_adapter_in_a_folder_inside_is_suggested(explora: Explora, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    for name in ("checkpoint-500", "checkpoint-1000", ".hidden"):
        write_run(tmp_path / "out" / name, base, LORA)
    for command in (["merge-lora", "out", "-o", "merged"], ["eval", "text", "out"]):
        refused = explora(*command)
        assert refused.code == 1
        assert (
            "error: out has no adapter itself, but folders in it have one: checkpoint-500, checkpoint-1000"
            in refused.err
        )
        assert "hint: name that folder: out/checkpoint-1000" in refused.err


@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_a_merge_that_is_not_the_same_model_fails_and_leaves_nothing(
    explora: Explora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: list[str]
) -> None:
    base = write_base(tmp_path / "base")
    write_run(tmp_path / "run", base, LORA)
    monkeypatch.setattr(LoRALinear, "merged", lambda layer: layer.base_layer)
    done = explora("merge-lora", "run", "-o", "merged", "--model", "base", *extra)
    assert (done.code, done.out) == (1, "")
    assert "nothing was written" in done.err
    assert sorted(left.name for left in tmp_path.iterdir()) == ["base", "run"]


def test_help_has_examples_and_no_heavy_words(explora: Explora) -> None:
    done = explora("merge-lora", "--help")
    assert done.code == 0
    assert "explora merge-lora runs/sonnet -o merged/" in done.out
    assert "fp32|bf16|fp16" in done.out
    assert "runs/TASK" not in done.out
    assert explora("fuse", "--help").code == 0


def test_the_same_merge_gives_the_same_bytes(explora: Explora, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    write_run(tmp_path / "run", base, LORA)
    for name in ("one", "two"):
        assert explora("merge-lora", "run", "-o", name, "--model", "base").code == 0
    one, two = (
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("one", "two")
    )
    assert one == two
    assert json.loads(one["explora.json"])["task"] == "text"
