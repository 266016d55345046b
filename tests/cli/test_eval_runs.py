"""`explora eval` with several runs, and with the options that look closer at one."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import pytest

from explora.core.config.concerns import DataConfig
from explora.core.runs.train import start_run
from tests.tiny_models import finish, tiny_run


@pytest.fixture(scope="module")
def runs(tiny_base: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of LoRA and a head for sentiment, a run of another task, and what is no run."""
    folder = tmp_path_factory.mktemp("many") / "runs"
    chosen = {
        "lora-1": {"seed": 1},
        "lora-2": {"seed": 2},
        "head": {"method": "last-linear", "seed": 1},
    }
    for name, options in chosen.items():
        run = tiny_run(tiny_base, tiny_data, "sentiment", max_steps=3, epochs=3, **options)
        finish(start_run(run, folder / name))
    finish(start_run(tiny_run(tiny_base, tiny_data, "text", max_steps=1), folder / "text"))
    (folder / "notes.txt").touch()
    (folder / "empty").mkdir()
    shutil.copytree(folder / "head", folder / "broken")
    (folder / "broken" / "adapter_model.safetensors").write_bytes(b"no tensors")
    return folder


@pytest.fixture
def here(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").symlink_to(runs)


EVERYTHING = [f"runs/{name}" for name in ("broken", "empty", "head", "lora-1", "lora-2", "notes.txt", "text")]


def test_runs_are_ranked_and_what_is_left_out_is_named(explora, check_schema, here: None) -> None:
    done = explora("eval", "sentiment", *EVERYTHING, "--json", "--forgetting")
    assert done.code == 0
    (value,) = done.objects
    check_schema("eval-ranking", value)
    best, worst = value["ranking"]
    assert best["score"] >= worst["score"]
    lines = {line["method"]: line for line in (best, worst)}
    assert lines["lora r=8"]["runs"] == ["runs/lora-1", "runs/lora-2"]
    assert lines["lora r=8"]["seeds"] == [1, 2]
    assert lines["last-linear"]["forgetting"] == pytest.approx(0.0, abs=1e-5)
    assert lines["lora r=8"]["forgetting"] != 0
    assert [each["run"] for each in value["left_out"]] == [
        f"runs/{name}" for name in ("broken", "empty", "notes.txt", "text")
    ]
    assert "warning: runs/text is left out: it was trained for text, not for sentiment" in done.err
    assert done.err.count("runs/broken") == 1
    assert "warning: runs/notes.txt is left out: it is a file, not a run folder" in done.err
    assert "scored on the 5 dev rows" in done.err


def test_each_run_has_the_scores_that_it_has_alone(explora, here: None) -> None:
    (value,) = explora("eval", "sentiment", "runs/lora-1", "runs/head", "--json").objects
    for line in value["ranking"]:
        (alone,) = explora("eval", "sentiment", *line["runs"], "--json").objects
        assert line["scores"] == alone["scores"]
        assert line["interval"] == alone["intervals"]["accuracy"]
        assert value["trivial"]["score"] == alone["floors"]["accuracy"]


@pytest.mark.parametrize("width", [70, 100])
def test_the_table_fits_narrow_terminals(
    explora, here: None, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    Path("sweep.json").write_text("{}")
    done = explora("eval", "sentiment", *EVERYTHING, "sweep.json")
    lines = done.out.splitlines()
    assert "sweep.json" not in done.err  # `runs/SWEEP/*` names it too
    assert max(map(len, lines)) <= width
    assert lines[0].split()[:2] == ["run", "accuracy"]
    assert [line.split()[0] for line in lines[1:]].count("-") == 1  # the best trivial answer
    assert "also shows: " in done.err


def test_seeds_the_trivial_answer_and_unfinished_runs_are_explained(explora, here: None) -> None:
    shutil.copytree("runs/head", "stopped")
    record = json.loads(Path("stopped/run.json").read_text())
    Path("stopped/run.json").write_text(json.dumps(record | {"result": {}}))
    told = "warning: stopped has not finished training"
    seeds = '"+1" after a run: one more run that differs only in its random seed'
    done = explora("eval", "sentiment", "runs/lora-1", "runs/lora-2", "stopped", "--report", "rank.md")
    assert told in done.err and seeds in done.err
    report = Path("rank.md").read_text()
    assert "Best trivial answer" in report and "of 2 lines are better" in report
    assert "differs only in its random seed" in report
    assert told in explora("eval", "sentiment", "stopped").err
    done = explora("eval", "sentiment", "runs/head", "runs/lora-1")
    assert "has not finished" not in done.err and seeds not in done.err


def test_a_pipe_gets_every_column(explora, here: None) -> None:
    done = explora("eval", "sentiment", "runs/lora-1", "runs/head")
    header = done.out.splitlines()[0]
    assert header.split()[-4:] == ["settings", "trained", "file", "macro_f1"]
    assert "also shows" not in done.err


def test_only_where_no_run_works_the_command_fails(explora, here: None) -> None:
    done = explora("eval", "sentiment", "runs/broken", "runs/text")
    assert (done.code, done.out) == (1, "")
    assert "error: no run could be scored" in done.err


def test_one_of_two_runs_that_fail_is_no_comparison(explora, here: None) -> None:
    done = explora("eval", "sentiment", "runs/head", "--against", "runs/broken")
    assert (done.code, done.out) == (1, "")
    assert "error: runs/broken cannot be compared" in done.err


# --- the same rows --------------------------------------------------------------------------------


def test_runs_of_different_data_need_data(
    explora, here: None, runs: Path, tmp_path: Path, tiny_base: Path, tiny_data: Path
) -> None:
    """Also: seeds that held out different rows of one file, and rows that none was trained on."""
    reviews = tmp_path / "reviews.csv"
    shutil.copy(tiny_data / "sentiment" / "train.csv", reviews)
    for seed in (1, 2):
        run = tiny_run(tiny_base, tiny_data, "sentiment", max_steps=1, seed=seed)
        run = dataclasses.replace(run, data=DataConfig(data=str(reviews)))
        finish(start_run(run, tmp_path / f"own-{seed}"))
    other = explora("eval", "sentiment", "runs/head", "own-1")
    assert (other.code, other.out) == (2, "")
    assert "error: runs/head and own-1 were trained on different data: data " in other.err
    seeds = explora("eval", "sentiment", "own-1", "own-2")
    assert (seeds.code, seeds.out) == (2, "")
    assert f"own-1 (seed 1) and own-2 (seed 2) held out different rows of {reviews}" in seeds.err
    dev = str(tiny_data / "sentiment" / "dev.csv")
    assert len(explora("eval", "sentiment", "own-1", "own-2", "--data", dev, "--json").objects) == 1
    alone = explora("eval", "sentiment", "own-1", "--data", str(reviews), "--json")
    assert (alone.objects[0]["split"], alone.objects[0]["examples"]) == ("dev", 2)
    assert f"the 2 rows of {reviews} that are held out from training" in alone.err
    assert alone.objects == explora("eval", "sentiment", "own-1", "--skip-bad", "--json").objects


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("runs/head runs/lora-1 --data -", "standard input can be read for one run only"),
        ("runs/head runs/lora-1 --against runs/lora-2", "--against compares one run"),
        ("runs/head runs/lora-1 --errors 2", "--errors shows the mistakes of one run"),
        ("runs/head runs/lora-1 --predictions out.csv", "--predictions writes the predictions of one run"),
        ("runs/head --forgetting --predictions out.csv", "--predictions writes the predictions of one run"),
        ("runs/head --errors 0", "0 is not in the range"),
    ],
)
def test_what_cannot_be_combined_is_a_usage_error(explora, here: None, arguments: str, told: str) -> None:
    done = explora("eval", "sentiment", *arguments.split())
    assert (done.code, done.out) == (2, "")
    assert told in done.err


# --- a closer look --------------------------------------------------------------------------------


def test_two_runs_are_compared_by_row(explora, check_schema, here: None) -> None:
    options = ("--against", "runs/head", "--errors", "9")
    (value,) = explora("eval", "sentiment", "runs/lora-1", *options, "--json").objects
    check_schema("eval-comparison", value)
    difference = value["differences"]["accuracy"]
    gain = value["scores"]["accuracy"] - value["against_scores"]["accuracy"]
    assert difference["value"] == pytest.approx(gain)
    assert value["wins"] - value["losses"] == pytest.approx(gain * value["examples"])
    for row in value["errors"]:
        mine, other = row["answers"]
        assert mine["prediction"] != other["prediction"]
    shown = explora("eval", "sentiment", "runs/lora-1", *options).out
    assert f"better on {value['wins']}, worse on {value['losses']}" in shown


def test_mistakes_are_the_wrong_predictions_from_the_surest(explora, here: None) -> None:
    (value,) = explora("eval", "sentiment", "runs/head", "--errors", "99", "--json").objects
    explora("eval", "sentiment", "runs/head", "--predictions", "out.jsonl")
    lines = [json.loads(line) for line in Path("out.jsonl").read_text(encoding="utf-8").splitlines()]
    wrong = [line for line in lines if line["prediction"] != line["label"]]
    wrong.sort(key=lambda line: -line["probability"])
    assert [row["id"] for row in value["errors"]] == [line["id"] for line in wrong]
    assert [row["label"] for row in value["errors"]] == [line["label"] for line in wrong]
    assert all(row["text"].keys() == {"sentence"} for row in value["errors"])
    assert (value["differences"], value["wins"], value["forgetting"]) == (None, None, None)


def test_of_plain_text_the_rows_with_the_highest_loss_are_shown(explora, check_schema, here: None) -> None:
    length = ("--max-length", "24")
    (value,) = explora(
        "eval", "text", "runs/text", "--errors", "3", "--forgetting", "--json", *length
    ).objects
    check_schema("eval-comparison", value)
    losses = [row["answers"][0]["nats_per_token"] for row in value["errors"]]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] >= value["scores"]["loss"]
    assert value["errors"][0]["text"]["text"]
    assert value["forgetting"]["after"] != value["forgetting"]["before"]
    shown = explora("eval", "text", "runs/text", "--errors", "1", "--forgetting", *length).out
    assert f"{losses[0]:.3f} nats per token" in shown
    assert "general text" in shown
