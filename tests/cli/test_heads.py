"""Classification heads in bases: who uses them, who drops them, and what their classes are called."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification

from tests.conftest import Outcome
from tests.tiny_models import SHAPE

Explora = Callable[..., Outcome]
QUIET = ("--amp", "off", "--threads", "1", "-q", "--json")
ROWS = "sentence,label\n" + "".join(f"a film of number {n},{n % 2}\n" for n in range(8))
SENTENCES = "".join(json.dumps({"sentence": f"a film of number {n}"}) + "\n" for n in range(3))


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """Folders seq1, seq2 and seq3: classifiers of one, two and three outputs as transformers saves them."""
    folder = tmp_path_factory.mktemp("heads")
    for classes in (1, 2, 3):
        torch.manual_seed(classes)
        config = GPT2Config(**vars(SHAPE), num_labels=classes, pad_token_id=0)
        GPT2ForSequenceClassification(config).save_pretrained(folder / f"seq{classes}")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tiny_base / name, folder / f"seq{classes}")
    return folder


@pytest.fixture(autouse=True)
def data(explora: Explora) -> None:
    Path("rows.csv").write_text(ROWS, encoding="utf-8")
    Path("sentences.jsonl").write_text(SENTENCES, encoding="utf-8")


def name_classes(folder: Path, **names: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"id2label": names}), encoding="utf-8")


@pytest.mark.parametrize(("classes", "names"), [(2, {"0", "1"}), (3, {"LABEL_0", "LABEL_1", "LABEL_2"})])
def test_classes_without_names_are_numbers(
    explora: Explora, heads: Path, classes: int, names: set[str]
) -> None:
    """transformers writes no names for two classes, and LABEL_n for three."""
    model = str(heads / f"seq{classes}")
    done = explora("eval", "sentiment", model, "--data", "sentences.jsonl", *QUIET)
    assert {row["prediction"] for row in done.objects[0]["predictions"]} <= names
    scored = explora("eval", "sentiment", model, "--data", "rows.csv", *QUIET)
    assert (scored.code, scored.objects[0]["examples"]) == (0, 8)


def test_a_label_of_the_data_meets_the_class_of_its_number(
    explora: Explora, heads: Path, tmp_path: Path
) -> None:
    """The predictions of an unlabelled file, taken as labels, are all right: as LABEL_n and as n."""
    for model in ("seq2", "seq3"):
        words = ("eval", "sentiment", str(heads / model), "--data")
        answers = explora(*words, "sentences.jsonl", *QUIET).objects[0]["predictions"]
        for spell in (lambda label: label.removeprefix("LABEL_"), lambda label: f"LABEL_{label}"):
            rows = [
                {"sentence": f"a film of number {n}", "label": spell(answer["prediction"][-1])}
                for n, answer in enumerate(answers)
            ]
            Path("gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            assert explora(*words, "gold.jsonl", *QUIET).objects[0]["scores"]["accuracy"] == 1.0


def test_a_regression_head_is_refused(explora: Explora, heads: Path) -> None:
    done = explora("eval", "sentiment", str(heads / "seq1"), "--data", "sentences.jsonl", *QUIET)
    assert (done.code, done.out) == (1, "")
    assert "it is a regression" in done.err


@pytest.mark.parametrize("names", [{"0": "bad"}, {"zero": "bad", "one": "good"}, {"1": "bad", "2": "good"}])
def test_names_that_do_not_fit_the_head_are_refused(
    explora: Explora, heads: Path, names: dict[str, str]
) -> None:
    shutil.copytree(heads / "seq2", "model")
    name_classes(Path("model"), **names)
    done = explora("eval", "sentiment", "model", "--data", "sentences.jsonl", *QUIET)
    assert (done.code, done.out) == (1, "")
    assert "the head of model has 2 classes" in done.err


def test_a_task_without_a_head_drops_the_heads_of_a_base(
    explora: Explora, heads: Path, tmp_path: Path
) -> None:
    """Training, scoring and generation give what they give on the same base without a head."""
    from safetensors.torch import load_file, save_file

    plain = tmp_path / "plain"
    shutil.copytree(heads / "seq2", plain)
    tensors = load_file(plain / "model.safetensors")
    del tensors["score.weight"]
    save_file(tensors, plain / "model.safetensors", metadata={"format": "pt"})
    name_classes(plain)
    pairs = "sentence1,sentence2,label\n" + "".join(f"a {n},b {n},{n % 2}\n" for n in range(6))
    Path("pairs.csv").write_text(pairs, encoding="utf-8")
    found = []
    for model in (str(heads / "seq2"), str(plain)):
        scored = explora("eval", "paraphrase", "--model", model, "--data", "pairs.csv", *QUIET)
        same = explora("eval", "paraphrase", model, "--data", "pairs.csv", *QUIET)
        written = explora(
            "generate", "text", "--model", model, "--prompt", "When", "--max-new-tokens", "4", "--json"
        )
        assert scored.objects[0]["scores"] == same.objects[0]["scores"]
        found.append((scored.objects[0]["scores"], written.objects[0]["text"]))
    assert found[0] == found[1]


def test_a_full_run_as_a_base_keeps_its_head_for_its_own_task_alone(explora: Explora, heads: Path) -> None:
    model = str(heads / "seq3")
    steps = ("--max-steps", "1", "--max-length", "32", "--dev", "rows.csv", *QUIET)
    trained = explora(
        "train", "sentiment", "--model", model, "--data", "rows.csv", "--full", *steps, "-o", "run"
    )
    assert trained.code == 0, trained.err
    result = trained.objects[0]
    assert (result["trainable"], result["share"]) == (result["total"], 1.0)
    own = explora("eval", "sentiment", "run", "--data", "rows.csv", *QUIET).objects[0]["scores"]
    as_base = explora("eval", "sentiment", "--model", "run", "--data", "rows.csv", *QUIET).objects[0][
        "scores"
    ]
    assert own == as_base
    words = ("--model", "run", "--prompt", "When", "--max-new-tokens", "2", "--json")
    assert explora("generate", "text", *words).code == 0
    refused = explora("generate", "text", "run", *words[2:])
    assert (refused.code, "was trained for sentiment, not for text" in refused.err) == (1, True)
