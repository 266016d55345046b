"""The card of a run holds measured facts, and lines that load the run."""

import ast
import json
import re
from pathlib import Path

import pytest

from explora.api import evaluate, load
from explora.core.config.precedence import resolve
from explora.core.runs.model_card import write_card
from explora.core.runs.train import start_run
from tests.tiny_models import finish, tiny_run

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

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


def card(folder: Path, task: str, method: str, classes: int = 0, **settings: object) -> str:
    labels = [str(label) for label in range(classes)]
    write_card(folder, resolve(task, {"method": method, **settings})[0], RESULT, labels)
    return (folder / "README.md").read_text(encoding="utf-8")


def test_the_measured_facts_are_there(tmp_path: Path) -> None:
    text = card(tmp_path, "paraphrase", "lora")
    assert "| accuracy | higher | 0.75 | 0.7 to 0.8 | 0.5 (`always yes`) |" in text
    assert "10 of 1,000 (1.00%)" in text
    assert "1,074 MB" in text
    assert "More Information Needed" not in text


@pytest.mark.parametrize(
    ("task", "method", "classes", "loader"),
    [
        ("paraphrase", "lora", 0, "PeftModel.from_pretrained(model"),
        ("sentiment", "lora", 5, "num_labels=5, pad_token_id=tokenizer.eos_token_id"),
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
    text = card(tmp_path, "paraphrase", method)
    assert ("peft cannot open it" in text) == ("library_name: explora" in text) == is_own
    assert ("PeftModel.from_pretrained" in text) == (not is_own)


def test_text_from_outside_stays_text(tmp_path: Path) -> None:
    evil = "data`\n# heading <script>"
    line = re.search(r"^\| data \| (.*) \|$", card(tmp_path, "text", "full", data=evil), re.MULTILINE)
    assert line is not None
    assert line[1] == "`data' # heading <script>`"


def test_the_settings_of_the_method_are_listed(tmp_path: Path) -> None:
    text = card(tmp_path, "sonnet", "lora", rank_pattern={"mlp.c_fc": 16})
    assert "| rank | `8` |" in text
    assert "| rank-pattern | `mlp.c_fc=16` |" in text


@pytest.mark.parametrize("end", ["Same? ", "Same?"])
def test_a_prompt_is_quoted_so_that_a_space_at_its_end_is_visible(tmp_path: Path, end: str) -> None:
    text = card(tmp_path, "paraphrase", "lora", template=f"{{sentence1}} {{sentence2}} {end}")
    assert f'    "{{sentence1}} {{sentence2}} {end}"\n' in text


@pytest.mark.parametrize(("end", "words"), [(" ", ("yes", "no")), ("", ("and", "the"))])
def test_the_code_runs_as_it_stands_and_gives_exploras_probability(
    tiny_base: Path,
    tiny_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    end: str,
    words: tuple[str, str],
) -> None:
    cloze = {"template": "{sentence1} / {sentence2} Same?" + end, "label_words": words}
    run = tiny_run(tiny_base, tiny_data, "paraphrase", **cloze, max_steps=1)
    finish(start_run(run, tmp_path / "run"))
    code = python_of(tmp_path / "run")
    exec(code, found := {})  # the card's own code
    prompted = str(found["prompt"])
    session = load("paraphrase", str(tmp_path / "run"), amp="off")
    pair = tmp_path / "pair.jsonl"
    pair.write_text(json.dumps(dict(zip(("sentence1", "sentence2"), pair_of(prompted), strict=True))))
    (answer,) = evaluate(session, str(pair)).predictions
    p_yes = answer["probability"] if answer["prediction"] == "1" else 1 - answer["probability"]
    assert float(capsys.readouterr().out.removeprefix("P(yes) =")) == pytest.approx(p_yes, abs=1e-5)


def test_the_code_of_a_classifier_prints_the_probability_of_each_label(
    tiny_base: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(start_run(tiny_run(tiny_base, tiny_data, "sentiment", max_steps=1), tmp_path / "run"))
    exec(python_of(tmp_path / "run"), found := {})
    session = load("sentiment", str(tmp_path / "run"), amp="off")
    (tmp_path / "row.jsonl").write_text(json.dumps({"sentence": found["prompt"]}))
    (answer,) = evaluate(session, str(tmp_path / "row.jsonl")).predictions
    printed = ast.literal_eval(capsys.readouterr().out)
    assert list(printed) == list(session.task.labels)
    assert printed[answer["prediction"]] == pytest.approx(answer["probability"], abs=1e-5)


def test_the_code_of_a_language_model_continues_a_text(
    tiny_base: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(start_run(tiny_run(tiny_base, tiny_data, "sonnet", method="full", max_steps=1), tmp_path / "run"))
    exec(python_of(tmp_path / "run"), {})
    assert capsys.readouterr().out.startswith("Shall I compare")


def python_of(folder: Path) -> str:
    found = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def pair_of(prompt: str) -> tuple[str, str]:
    first, _, second = prompt.partition(" / ")
    return first, second.partition(" Same")[0]
