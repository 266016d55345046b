"""`--report` of `train` and `eval`: checked before the work, written after it. `bench` has its own tests."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

QUICK = ["--amp", "off", "--threads", "1", "--max-steps", "2", "--eval-every", "1", "--batch-size", "4"]


@pytest.fixture(scope="module")
def on_tiny(tiny_base: Path, tiny_data: Path) -> list[str]:
    return ["--model", str(tiny_base), "--data", str(tiny_data / "sentiment"), "--max-length", "96"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("report.htm", "did you mean .html?"),
        ("report", "a report is one of .html, .md, .tex"),
        ("folder.md", "is a folder"),
        ("file/report.md", "nothing can be written to"),
        ("nodir/report.md", "there is no folder nodir"),
        ("-", "a report is one of"),
    ],
)
@pytest.mark.parametrize("command", [["train", "sentiment"], ["eval", "sentiment"], ["bench"]])
def test_a_report_that_cannot_be_written_stops_the_command_before_its_work(
    explora, command, name, message, tmp_path
):
    (tmp_path / "folder.md").mkdir()
    (tmp_path / "file").touch()
    done = explora(*command, "--report", name)
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", [["train", "sentiment", "-o", "run"], ["eval", "sentiment", "run"]])
def test_a_report_does_not_replace_the_model_card(explora, command, tmp_path):
    (tmp_path / "run").mkdir()
    for name in ("run.json", "README.md"):
        (tmp_path / "run" / name).write_text(name, encoding="utf-8")
    done = explora(*command, "--report", "run/README.md")
    assert done.code == 2
    assert "run/README.md is a file of the run or model in run" in done.err


def test_a_report_does_not_replace_the_data(explora, tmp_path):
    (tmp_path / "notes.md").write_text("a text", encoding="utf-8")
    for command in (["train", "text"], ["eval", "text"], ["bench", "text"]):
        done = explora(*command, "--data", "notes.md", "--report", "notes.md")
        assert done.code == 2
        assert "notes.md holds data that this command reads" in done.err


def test_plots_without_matplotlib_are_refused_with_the_command_that_helps(explora, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name)
    )
    done = explora("eval", "sentiment", "--report", "r.html")
    assert done.code == 2
    assert "pip install 'explora[report]'" in done.err


def test_a_run_is_reported_after_training_and_again_from_its_folder(explora, on_tiny, tmp_path):
    first = explora("train", "sentiment", *on_tiny, *QUICK, "--report", "run.md", "--json")
    assert first.code == 0
    assert len(first.objects) == 1
    text = Path("run.md").read_text(encoding="utf-8")
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == ["## Scores", "## Learning curves", "## Memory", "## How it was made"]
    assert "best trivial" in text
    assert "predicted peak" in text
    assert "--config runs/sentiment/run.json" in text
    again = explora("train", "sentiment", "--resume", "--report", "again.md")
    assert again.code == 0, again.err
    assert "0 rows" not in again.err
    assert _without_command(Path("again.md")) == _without_command(Path("run.md"))


def _without_command(file: Path) -> list[str]:
    lines = file.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("explora ")]


def test_samples_of_a_task_that_writes_text_are_recorded_for_a_report_alone(
    explora, tiny_base, tiny_data, tmp_path
):
    words = ["train", "text", "--model", str(tiny_base), "--data", str(tiny_data / "text"), *QUICK]
    done = explora(*words, "--max-length", "24", "--report", "t.tex")
    assert done.code == 0
    text = Path("t.tex").read_text(encoding="utf-8")
    assert all(each in text for each in ("Before training", "In the middle", "Best step"))
    explora(*words, "--max-length", "24", "-o", "plain")
    assert not Path("plain/samples.jsonl").exists()


def test_scores_rankings_and_errors_are_reported(explora, on_tiny):
    words = ["train", "sentiment", *on_tiny, *QUICK, "--quiet"]
    for seed in ("1", "2"):
        explora(*words, "--seed", seed, "--lr", f"0.0{seed}", "-o", f"runs/{seed}")
    assert explora("eval", "sentiment", "runs/1", "--report", "one.md", "--json").code == 0
    assert "| score | value | 95 % from | to |" in Path("one.md").read_text(encoding="utf-8")
    done = explora("eval", "sentiment", "runs/1", "--against", "runs/2", "--errors", "2", "--report", "e.md")
    assert done.code == 0
    text = Path("e.md").read_text(encoding="utf-8")
    assert "## Compared with runs/2" in text
    assert "## Errors" in text
    done = explora("eval", "sentiment", "runs/1", "runs/2", "--report", "r.md")
    assert done.code == 0
    text = Path("r.md").read_text(encoding="utf-8")
    assert "| run | group | method | settings | accuracy |" in text
    assert "## Differences from the best" in text


def test_decodings_have_no_report(explora):
    done = explora("eval", "sonnet", "--decoding", "--report", "d.md")
    assert done.code == 2
    assert "--report shows scores and rankings" in done.err


def test_rows_without_labels_have_no_report(explora, on_tiny, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"sentence": "Fine."}\n', encoding="utf-8")
    explora("train", "sentiment", *on_tiny, *QUICK, "--quiet")
    done = explora("eval", "sentiment", "--data", "rows.jsonl", "--report", "r.md", "--json")
    assert done.code == 0
    assert "rows without labels have no scores" in done.err
    assert not Path("r.md").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--track mlflow", "choose one of tensorboard, trackio, wandb"),
        ("--track tensorboard --lora 4,8", "--track follows a single run"),
    ],
)
def test_a_tracker_is_checked_before_the_work(explora, words, message, tmp_path):
    pytest.importorskip("tensorboard")
    done = explora("train", "sentiment", *words.split())
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "runs").exists()
