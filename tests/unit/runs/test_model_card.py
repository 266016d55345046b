"""The card of a run holds measured facts, and lines that load the run."""

import re
from pathlib import Path

import pytest

from explora.core.config.precedence import resolve
from explora.core.runs.model_card import write_card

RESULT = {
    "model": "embedded",
    "examples": 1234,
    "trainable": 10,
    "total": 1000,
    "share": 0.01,
    "steps": 7,
    "best_step": 5,
    "seconds": 12.0,
    "tokens_per_second": 345.0,
    "peak_memory_bytes": 2**30,
    "scores": {"accuracy": 0.75},
    "intervals": {"accuracy": [0.7, 0.8]},
    "floors": {"accuracy": 0.5},
    "trivial_answers": {"accuracy": "always yes"},
    "higher_is_better": {"accuracy": True},
}


def card(folder: Path, task: str, method: str, classes: int, **settings: object) -> str:
    write_card(folder, resolve(task, {"method": method, **settings})[0], RESULT, classes)
    return (folder / "README.md").read_text(encoding="utf-8")


def test_the_measured_facts_are_there(tmp_path: Path) -> None:
    text = card(tmp_path, "paraphrase", "lora", 0)
    assert "| accuracy | higher | 0.75 | 0.7 to 0.8 | 0.5 (`always yes`) |" in text
    assert "10 of 1,000 (1.00%)" in text
    assert "1,074 MB" in text
    assert "More Information Needed" not in text


@pytest.mark.parametrize(
    ("task", "method", "classes", "loader"),
    [
        ("paraphrase", "lora", 0, "PeftModel.from_pretrained(AutoModelForCausalLM"),
        ("sentiment", "lora", 5, "num_labels=5, pad_token_id="),
        ("sentiment", "full", 5, "AutoModelForSequenceClassification.from_pretrained"),
        ("sonnet", "full", 0, "AutoModelForCausalLM.from_pretrained"),
    ],
)
def test_the_lines_that_load_it_fit_task_and_method(
    tmp_path: Path, task: str, method: str, classes: int, loader: str
) -> None:
    assert loader in card(tmp_path, task, method, classes)


@pytest.mark.parametrize(
    ("method", "is_own"), [("bitfit", True), ("top", True), ("last-linear", True), ("miss", False)]
)
def test_a_folder_that_peft_cannot_open_is_called_that(tmp_path: Path, method: str, is_own: bool) -> None:
    text = card(tmp_path, "paraphrase", method, 0)
    assert ("peft cannot open it" in text) == ("library_name: explora" in text) == is_own
    assert ("PeftModel.from_pretrained" in text) == (not is_own)


def test_text_from_outside_stays_text(tmp_path: Path) -> None:
    evil = "data`\n# heading <script>"
    line = re.search(r"^\| data \| (.*) \|$", card(tmp_path, "text", "full", 0, data=evil), re.MULTILINE)
    assert line is not None
    assert line[1] == "`data' # heading <script>`"


@pytest.mark.parametrize("end", ["Same? ", "Same?"])
def test_a_space_that_ends_the_prompt_is_named(tmp_path: Path, end: str) -> None:
    text = card(tmp_path, "paraphrase", "lora", 0, template=f"{{sentence1}} {{sentence2}} {end}")
    assert "`{sentence1} {sentence2} Same?`" in text
    assert ("The prompt ends with a space." in text) == end.endswith(" ")
