"""Evaluation: which rows a run is scored on, where its floor comes from, and the files of predictions."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from explora.core.config.concerns import DataConfig, RuntimeConfig
from explora.core.config.registry import TASKS
from explora.core.config.run_config import TrainRun
from explora.core.data.splits import read_table
from explora.core.runs.assemble import Session
from explora.core.runs.evaluate import recorded_data, score, write_predictions
from explora.core.runs.open import open_run
from explora.core.runs.record import finite
from explora.core.runs.result import TrainResult
from explora.core.runs.running import Running
from explora.core.runs.train import start_run
from explora.core.tasks.contract import Evaluation, Example
from explora.errors import DataError, UsageError, WriteError
from tests.tiny_models import finish, tiny_run

DEV, TRAIN = 5, 22  # rows of the tiny data
IN_FP32 = RuntimeConfig(device="cpu", amp="off", threads=1)
ON_ONE_FILE = [*((task, "lora") for task in TASKS), ("sentiment", "full"), ("text", "full")]


def open_folder(task: str, folder: Path, **encoding: Any) -> Session:
    return open_run(task, str(folder), model=None, tokenizer=None, runtime=IN_FP32, encoding=encoding)


def train(run: TrainRun, folder: Path) -> tuple[Running, TrainResult]:
    running = start_run(run, folder)
    _, completed = finish(running)
    return running, completed.result


def one_file(data: Path, task: str) -> Path:
    return next((data / task).glob("train.*"))


def ids_of(examples: Sequence[Example]) -> list[list[int]]:
    return [list(examples[i].ids) for i in range(len(examples))]


@pytest.fixture(scope="module")
def sentiment(tiny_base: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sentiment") / "run"
    train(tiny_run(tiny_base, tiny_data, "sentiment", max_steps=2), folder)
    return folder


@pytest.fixture(scope="module")
def sonnet(tiny_base: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sonnet") / "run"
    train(tiny_run(tiny_base, tiny_data, "sonnet", max_steps=1), folder)
    return folder


# --- which rows -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "method"), ON_ONE_FILE)
def test_a_run_on_one_file_is_scored_on_the_tenth_it_was_not_trained_on(
    tiny_base: Path, tiny_data: Path, tmp_path: Path, task: str, method: str
) -> None:
    """Dev of one file is drawn with the run's seed: with another, eval would look at training rows."""
    file = str(one_file(tiny_data, task))
    run = tiny_run(tiny_base, tiny_data, task, method=method, seed=5, max_steps=2)
    on_one_file = dataclasses.replace(run, data=DataConfig(data=file))
    running, result = train(on_one_file, tmp_path / "run")
    session = open_folder(task, tmp_path / "run")
    data = recorded_data(tmp_path / "run")
    assert data.data == file
    dev = session.task.load(data, "dev").examples
    assert ids_of(dev) == ids_of(running.dev.examples)
    assert not [ids for ids in ids_of(dev) if ids in ids_of(running.train.examples)]
    scored = score(session, data, data, None, 3)
    assert scored.split == "dev"
    assert scored.evaluation.scores == pytest.approx(result.evaluation.scores, rel=1e-4)
    assert scored.evaluation.floors == pytest.approx(result.evaluation.floors)


def test_a_folder_has_splits_and_a_file_is_taken_whole(
    sentiment: Path, tiny_data: Path, tmp_path: Path
) -> None:
    session = open_folder("sentiment", sentiment)
    trained_on = recorded_data(sentiment)
    folder = tmp_path / "data"
    shutil.copytree(tiny_data / "sentiment", folder)
    (folder / "test.csv").write_text("sentence\none text\nanother\nmore\n", encoding="utf-8")

    def scored(data: Path | None, split: str | None) -> tuple[str, int, bool]:
        config = DataConfig(data=str(data)) if data else trained_on
        found = score(session, config, trained_on, split, 4)
        return found.split, found.evaluation.examples, found.evaluation.scores is not None

    assert scored(None, None) == ("dev", DEV, True)
    assert scored(folder, None) == ("dev", DEV, True)
    assert scored(folder, "train") == ("train", TRAIN, True)
    assert scored(folder, "test") == ("test", 3, False)
    assert scored(folder / "train.csv", None) == ("all", TRAIN, True)
    assert scored(folder / "train.csv", "dev") == ("dev", 2, True)
    with pytest.raises(DataError, match="no test split"):
        scored(folder / "train.csv", "test")


def test_standard_input_has_no_splits(
    sentiment: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, trained_on = open_folder("sentiment", sentiment), recorded_data(sentiment)
    content = (tiny_data / "sentiment" / "dev.csv").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(content))))
    with pytest.raises(UsageError, match="no splits"):
        score(session, DataConfig(data="-"), trained_on, "dev", 4)
    scored = score(session, DataConfig(data="-"), trained_on, None, 4)
    assert (scored.split, scored.data, scored.evaluation.examples) == ("all", "-", DEV)
    from_file = score(session, trained_on, trained_on, None, 4)
    assert scored.evaluation.scores == from_file.evaluation.scores


def test_what_was_skipped_is_told(sentiment: Path, tmp_path: Path) -> None:
    session, trained_on = open_folder("sentiment", sentiment), recorded_data(sentiment)
    file = tmp_path / "rows.csv"
    file.write_text(f"sentence,label\ngood,{session.task.labels[0]}\n,1\nbad,nine\n", encoding="utf-8")
    with pytest.raises(DataError):
        score(session, DataConfig(data=str(file)), trained_on, None, 4)
    scored = score(session, DataConfig(data=str(file), skip_bad=True), trained_on, None, 4)
    assert (scored.evaluation.examples, len(scored.skipped)) == (1, 2)
    assert scored.to_json(session)["skipped"] == 2
    assert "rows.csv:3" in scored.skipped[0]
    assert "rows.csv:4: column label: 'nine': use one of" in scored.skipped[1]


def test_the_json_holds_what_was_scored(sentiment: Path) -> None:
    session, trained_on = open_folder("sentiment", sentiment), recorded_data(sentiment)
    scored = score(session, trained_on, trained_on, None, 4)
    value = finite(scored.to_json(session))
    assert json.loads(json.dumps(value)) == value
    assert (value["task"], value["split"], value["examples"], value["skipped"]) == (
        "sentiment",
        "dev",
        DEV,
        0,
    )
    assert value["data"] == trained_on.data
    assert value["run"].startswith(f"{sentiment} on ")
    assert value["scores"].keys() == value["intervals"].keys() == value["floors"].keys()


def test_what_a_run_was_trained_on_is_in_its_record(sentiment: Path, tmp_path: Path) -> None:
    assert recorded_data(sentiment).data is not None
    assert recorded_data(None) == recorded_data(tmp_path) == recorded_data(tmp_path / "none") == DataConfig()


# --- how rows are encoded -------------------------------------------------------------------------


@pytest.mark.parametrize("length", [-5, 0, 7])
def test_a_length_that_cannot_be_is_refused(sentiment: Path, length: int) -> None:
    with pytest.raises(UsageError, match="max-length must be at least 8"):
        open_folder("sentiment", sentiment, max_length=length)


def test_a_run_is_read_as_it_was_trained_but_for_the_length(sentiment: Path, tiny_base: Path) -> None:
    assert open_folder("sentiment", sentiment).encoding.max_length == 96
    assert open_folder("sentiment", sentiment, max_length=20).encoding.max_length == 20
    assert open_folder("text", tiny_base, max_length=20).encoding.max_length == 20


# --- trivial answers ---------------------------------------------------------------------------------------


def test_trivial_answers_that_need_training_poems_are_left_out_where_these_are_gone(
    sonnet: Path, tiny_data: Path
) -> None:
    session = open_folder("sonnet", sonnet)
    dev = DataConfig(data=str(tiny_data / "sonnet" / "dev.txt"))
    with_floor = score(session, dev, recorded_data(sonnet), None, 8).evaluation
    without = score(session, dev, DataConfig(data=str(tiny_data / "gone")), None, 8).evaluation
    assert with_floor.trivial_answers["perplexity"] == "unigram frequencies"
    assert without.trivial_answers["perplexity"] == "uniform guess"
    assert set(without.trivial_answers.values()) == {"uniform guess", "given lines again"}
    assert with_floor.scores is not None
    kept = {name: value for name, value in with_floor.scores.items() if "copied" not in name}
    assert without.scores == kept  # nothing was there to copy from


# --- files of predictions -------------------------------------------------------------------------


def evaluated(session: Session, predictions: list[dict[str, Any]]) -> Evaluation:
    return Evaluation(examples=len(predictions), scores=None, predictions=predictions)


def test_labels_are_written_as_the_course_wants_them(
    sentiment: Path, tiny_base: Path, tmp_path: Path
) -> None:
    session = open_folder("sentiment", sentiment)
    predictions = [{"id": "a7d575", "prediction": "3", "probability": 0.5}, {"id": "33cf", "prediction": "0"}]
    file = tmp_path / "new" / "sst-test.csv"
    write_predictions(file, session, evaluated(session, predictions))
    assert file.read_bytes() == b"id \t Predicted_Sentiment \na7d575, 3 \n33cf, 0 \n"
    assert [item.name for item in file.parent.iterdir()] == [file.name]
    write_predictions(file, open_folder("paraphrase", tiny_base), evaluated(session, predictions[:1]))
    assert file.read_bytes() == b"id \t Predicted_Is_Paraphrase \na7d575, 3 \n"


def test_json_lines_hold_everything_there_is(sentiment: Path, tmp_path: Path) -> None:
    session, trained_on = open_folder("sentiment", sentiment), recorded_data(sentiment)
    evaluation = score(session, trained_on, trained_on, None, 4).evaluation
    file = tmp_path / "predictions.jsonl"
    write_predictions(file, session, evaluation)
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert lines == list(evaluation.predictions)
    assert [set(line) for line in lines] == [{"id", "prediction", "probability", "label"}] * DEV
    assert all(1 / len(session.task.labels) <= line["probability"] <= 1 for line in lines)


def test_sonnets_are_written_as_the_course_does_and_can_be_read_again(sonnet: Path, tmp_path: Path) -> None:
    session = open_folder("sonnet", sonnet)
    predictions = [
        {"id": name, "prompt": f"{name} one\ntwo\nthree\n", "greedy": "no", "sampled": "four\nfive"}
        for name in ("132", "133")
    ]
    file = tmp_path / "sonnets.txt"
    write_predictions(file, session, evaluated(session, predictions))
    course = "--Generated Sonnets-- \n\n"
    for name in ("132", "133"):
        course += f"\n{name}\n" + f"{name} one\ntwo\nthree\nfour\nfive\n\n"
    assert file.read_text(encoding="utf-8") == course
    rows = read_table(str(file), "sonnet", DataConfig()).rows
    assert [row.id for row in rows] == ["132", "133"]
    assert rows[1].values["text"] == "133 one\ntwo\nthree\nfour\nfive"


def test_a_task_without_predictions_has_none_to_write(tiny_base: Path, tmp_path: Path) -> None:
    session = open_folder("text", tiny_base)
    with pytest.raises(UsageError, match="text has no predictions"):
        write_predictions(tmp_path / "out.csv", session, evaluated(session, []))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(
    sentiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, file = open_folder("sentiment", sentiment), tmp_path / "out.csv"
    file.write_text("before", encoding="utf-8")

    def full_disk(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(WriteError, match=r"out\.csv cannot be written: No space"):
        write_predictions(file, session, evaluated(session, [{"id": "1", "prediction": "2"}]))
    assert file.read_bytes() == b"before"
