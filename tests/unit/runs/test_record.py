"""run.json and metrics.jsonl: written whole, read strictly, cut to the step that is resumed from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from explora.core.config.precedence import resolve
from explora.core.runs.record import RunRecord, open_metrics, read_config, read_record, write_record
from explora.errors import AdapterError, UsageError

RUN = resolve("paraphrase", {"rank": 3, "template": 'é "{sentence1}" {sentence2}'})[0]
RECORD = RunRecord(run=RUN, result={"scores": {"accuracy": 0.5}, "best_step": 3}, machine={"cpu": "two"})


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_record(tmp_path / "runs" / "new", RECORD)
    assert read_record(tmp_path / "runs" / "new") == RECORD
    assert [file.name for file in (tmp_path / "runs" / "new").iterdir()] == ["run.json"]
    assert "é" in (tmp_path / "runs" / "new" / "run.json").read_text(encoding="utf-8")


def test_a_record_is_replaced_whole(tmp_path: Path) -> None:
    write_record(tmp_path, RECORD)
    write_record(tmp_path, RunRecord(run=RUN, result={}, machine={}))
    record = read_record(tmp_path)
    assert record is not None and record.result == {}


def test_no_record_is_none(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None
    assert read_record(tmp_path / "nowhere") is None


@pytest.mark.parametrize("name", ["run.json", ""])
def test_a_config_is_a_record_or_its_folder(tmp_path: Path, name: str) -> None:
    write_record(tmp_path, RECORD)
    task, settings = read_config(tmp_path / name)
    assert (task, resolve(task, {}, settings)[0]) == ("paraphrase", RUN)


def test_a_config_may_be_the_settings_alone_or_some_of_them(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(RUN.to_json()), encoding="utf-8")
    assert resolve("paraphrase", {}, read_config(file)[1])[0] == RUN
    file.write_text('{"task": "text", "training": {"epochs": 4}}', encoding="utf-8")
    assert read_config(file) == ("text", {"epochs": 4})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not JSON"),
        ('{"config": ', "is not JSON"),
        ("[1]", "should be a JSON object"),
        ('{"config": 3}', "run should be an object, not 3"),
        ('{"task": "text", "epochs": 3}', "run has no setting 'epochs'"),
        ('{"config": {"task": "text", "training": {"epoch": 3}}}', "did you mean epochs?"),
        ('{"training": {}}', "run has no value for task"),
        ("\x80", "is not JSON"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "run.json"
    file.write_text(content, encoding="latin-1")
    with pytest.raises(UsageError) as caught:
        read_config(file)
    assert str(file) in caught.value.message
    assert message in caught.value.message
    with pytest.raises(AdapterError, match="the record of the run is damaged") as damaged:
        read_record(tmp_path)
    assert caught.value.message in damaged.value.message


def test_a_config_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_config(tmp_path / "run.json")


# --- metrics.jsonl --------------------------------------------------------------------------------


def steps(folder: Path) -> list[Any]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["step"] for line in lines]


def logged(folder: Path, count: int) -> None:
    log = open_metrics(folder / "new", 0)
    for step in range(1, count + 1):
        log.add({"step": step, "loss": 1 / step})


def test_each_line_is_there_as_soon_as_it_is_added(tmp_path: Path) -> None:
    log = open_metrics(tmp_path / "new", 0)
    assert steps(tmp_path / "new") == []
    log.add({"step": 1, "loss": 0.1 + 0.2})
    assert (tmp_path / "new" / "metrics.jsonl").read_text() == '{"step": 1, "loss": 0.30000000000000004}\n'


def test_what_is_no_number_is_null(tmp_path: Path) -> None:
    open_metrics(tmp_path, 0).add({"step": 1, "loss": float("nan"), "gradient_norm": float("inf")})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": null, "gradient_norm": null}\n'
    write_record(tmp_path, RunRecord(run=RUN, result={"intervals": {"f1": [float("nan"), 1.0]}}, machine={}))
    record = read_record(tmp_path)
    assert record is not None and record.result == {"intervals": {"f1": [None, 1.0]}}


@pytest.mark.parametrize("keep", [0, 3, 5, 9])
def test_opening_again_drops_what_came_after(tmp_path: Path, keep: int) -> None:
    logged(tmp_path, 5)
    log = open_metrics(tmp_path / "new", keep)
    assert steps(tmp_path / "new") == list(range(1, min(keep, 5) + 1))
    log.add({"step": 17})
    assert steps(tmp_path / "new")[-1] == 17


def test_a_line_cut_off_by_a_kill_is_dropped(tmp_path: Path) -> None:
    logged(tmp_path, 5)
    file = tmp_path / "new" / "metrics.jsonl"
    file.write_text(file.read_text()[:-9], encoding="utf-8")
    open_metrics(tmp_path / "new", 5).add({"step": 5, "loss": 1.0})
    assert steps(tmp_path / "new") == [1, 2, 3, 4, 5]
