"""benchmarks/same_bits.py: what is the same is called the same, and every planted difference is found."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import same_bits  # noqa: E402
from errors import BenchmarkError  # noqa: E402
from processes import Done  # noqa: E402

RUN = "paraphrase-lora"
TENSORS = {"a.weight": torch.zeros(2, 3), "b.weight": torch.ones(2, dtype=torch.bfloat16)}
METRICS = [
    {"step": 1, "loss": 0.5, "gradient_norm": None, "tokens_per_second": 10.0},
    {"step": 2, "loss": 0.25, "gradient_norm": 1.0, "tokens_per_second": 11.0},
    {"step": 2, "accuracy": 0.5, "best": True},
]
RESULT = {
    "run": "before",
    "scores": {"accuracy": 0.5},
    "intervals": {"accuracy": [0.25, 0.75]},
    "steps": 2,
    "seconds": 1.0,
    "tokens_per_second": 10.0,
    "peak_memory_bytes": 1000,
    "full_fine_tuning": {"seconds": 1.0, "peak_memory_bytes": 1000},
}


def write(folder: Path, metadata: str = "1", metrics: Any = METRICS, result: Any = RESULT) -> Path:
    for name in same_bits.RUNS:
        (folder / name).mkdir(parents=True)
        file = "model.safetensors" if name.endswith("full") else "adapter_model.safetensors"
        save_file(TENSORS, folder / name / file, metadata={"explora": metadata})
        write_metrics(folder / name, metrics)
        write_result(folder, name, result)
    return folder


def write_metrics(folder: Path, lines: list[dict[str, Any]]) -> None:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_result(folder: Path, name: str, result: dict[str, Any]) -> None:
    (folder / f"{name}.json").write_text(json.dumps(result))


@pytest.fixture
def recordings(tmp_path: Path) -> tuple[Path, Path]:
    return write(tmp_path / "before"), write(tmp_path / "after")


def test_what_may_differ_may_differ(tmp_path, capsys):
    times = {"seconds": 9.0, "tokens_per_second": None, "peak_memory_bytes": 2, "full_fine_tuning": None}
    metrics = [line | ({"tokens_per_second": 99.0} if "loss" in line else {}) for line in METRICS]
    before = write(tmp_path / "before")
    after = write(tmp_path / "after", metadata="2", metrics=metrics, result=RESULT | times | {"run": "after"})
    assert same_bits.main(["compare", str(before), str(after)]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{name}: same" for name in same_bits.RUNS]


def change_tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def plant(after: Path) -> None:
        file = after / RUN / "adapter_model.safetensors"
        tensors = {name: value.clone() for name, value in load_file(file).items()}
        change(tensors)
        save_file(tensors, file)

    return plant


def change_metrics(change: Callable[[list[dict[str, Any]]], Any]) -> Callable[[Path], None]:
    def plant(after: Path) -> None:
        lines = [dict(line) for line in METRICS]
        change(lines)
        write_metrics(after / RUN, lines)

    return plant


def change_result(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def plant(after: Path) -> None:
        result = json.loads(json.dumps(RESULT))
        change(result)
        write_result(after, RUN, result)

    return plant


BUGS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a flipped bit": (
        change_tensors(lambda found: found["a.weight"].view(torch.uint8)[1].bitwise_xor_(1)),
        "adapter_model.safetensors: a.weight has another data",
    ),
    "a flipped sign of a zero": (
        change_tensors(lambda found: found["a.weight"].neg_()),
        "adapter_model.safetensors: a.weight has another data",
    ),
    "the same bytes of another type": (
        change_tensors(lambda found: found.update({"b.weight": found["b.weight"].view(torch.float16)})),
        "adapter_model.safetensors: b.weight has another dtype",
    ),
    "the same bytes in another shape": (
        change_tensors(lambda found: found.update({"a.weight": found["a.weight"].view(3, 2)})),
        "adapter_model.safetensors: a.weight has another shape",
    ),
    "no tensor": (
        change_tensors(lambda found: found.pop("b.weight")),
        "adapter_model.safetensors: b.weight is missing",
    ),
    "a tensor more": (
        change_tensors(lambda found: found.update(c=torch.zeros(1))),
        "adapter_model.safetensors: c is new",
    ),
    "a loss": (
        change_metrics(lambda lines: lines[1].update(loss=0.25000000000000006)),
        "metrics.jsonl:2.loss: 0.25 before, 0.25000000000000006 after",
    ),
    "a step less": (change_metrics(lambda lines: lines.pop()), "metrics.jsonl: 3 lines before, 2 after"),
    "a value more in a step": (
        change_metrics(lambda lines: lines[0].update(rows=1)),
        "metrics.jsonl:1.rows is new",
    ),
    "a score": (
        change_result(lambda result: result["scores"].update(accuracy=0.75)),
        "result.scores.accuracy: 0.5 before, 0.75 after",
    ),
    "no score": (
        change_result(lambda result: result["scores"].clear()),
        "result.scores.accuracy is missing",
    ),
    "an end of an interval": (
        change_result(lambda result: result["intervals"].update(accuracy=[0.25, 0.8])),
        "result.intervals.accuracy: [0.25, 0.75] before, [0.25, 0.8] after",
    ),
    "another type of number": (
        change_result(lambda result: result.update(steps=2.0)),
        "result.steps: 2 before, 2.0 after",
    ),
    "no result": (lambda after: (after / f"{RUN}.json").unlink(), "No such file"),
    "a damaged file": (
        lambda after: (after / RUN / "adapter_model.safetensors").write_bytes(b"\1" + bytes(8)),
        "deserializing",
    ),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found_in_its_run_alone(recordings, capsys, bug):
    before, after = recordings
    plant, said = BUGS[bug]
    plant(after)
    assert same_bits.main(["compare", str(before), str(after)]) == 1
    found = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert said in found.pop(RUN)
    assert set(found.values()) == {"same"}


def test_a_key_that_only_the_result_after_has_is_named(recordings, capsys):
    before, after = recordings
    change_result(lambda result: (result.update(format=2), result["scores"].update(f1=0.5)))(after)
    assert same_bits.main(["compare", str(before), str(after)]) == 0
    assert f"{RUN}: same, result.format is new, result.scores.f1 is new\n" in capsys.readouterr().out
    assert same_bits.main(["compare", str(after), str(before)]) == 1


def test_no_recording_is_not_the_same(tmp_path, capsys):
    assert same_bits.main(["compare", str(tmp_path), str(tmp_path)]) == 1
    assert ": same" not in capsys.readouterr().out


def test_runs_without_tensors_are_not_the_same(recordings, capsys):
    for side in recordings:
        (side / RUN / "adapter_model.safetensors").unlink()
    assert same_bits.main(["compare", *map(str, recordings)]) == 1
    assert f"{RUN}: there are no trained tensors\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", same_bits.RUNS)
def test_train_takes_the_arguments_of_every_run(name, explora):
    done = explora("train", *same_bits.RUNS[name], "--dry-run", "--json")
    assert done.code == 0, done.err
    config = done.objects[0]["config"]
    assert f"{config['task']}-{config['method']['method']}" == name


def test_recording_trains_every_run_on_its_own_data(tmp_path, monkeypatch, capsys):
    commands = []

    def pretend(command, given="", environment=None):
        commands.append((list(command), environment, Path.cwd()))
        return Done(out="{}\n", seconds=1.0, first_output_seconds=1.0, peak_memory_bytes=1)

    monkeypatch.setattr(same_bits, "run", pretend)
    monkeypatch.chdir(tmp_path)
    assert same_bits.main(["record", "here", "--data", "rows"]) == 0
    assert Path.cwd() == tmp_path
    assert {file.name for file in (tmp_path / "here").iterdir()} == {
        f"{name}.json" for name in same_bits.RUNS
    }
    for (command, environment, where), name in zip(commands[1:], same_bits.RUNS, strict=True):
        assert command[command.index("--data") + 1] == str(tmp_path / "rows" / name.split("-")[0])
        assert command[command.index("-o") + 1] == name
        assert environment == {"OMP_NUM_THREADS": "1"}
        assert where == tmp_path / "here"
    assert f"{RUN}: 1.0 s" in capsys.readouterr().out


def test_a_training_that_fails_is_said(tmp_path, monkeypatch, capsys):
    def fail(command, given="", environment=None):
        raise BenchmarkError("exit code 2")

    monkeypatch.setattr(same_bits, "run", fail)
    assert same_bits.main(["record", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "error: exit code 2\n"
