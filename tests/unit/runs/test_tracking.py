"""A tracker gets the figures that metrics.jsonl has, and is closed whatever happens."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from explora.core.runs.tracking import TENSORBOARD_FOLDER, check_tracker, tracking
from explora.core.runs.train import Running, start_run
from explora.errors import UsageError
from tests.tiny_models import tiny_run


@pytest.fixture
def running(tiny_base: Path, tiny_data: Path, tmp_path: Path) -> Running:
    run = tiny_run(tiny_base, tiny_data, max_steps=3, eval_every=2)
    return start_run(run, tmp_path / "run")


def logged(folder: Path, name: str) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(line["step"], line[name]) for line in lines if name in line]


def test_tensorboard_reads_back_what_the_log_has(running: Running) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tracking("tensorboard", running) as observe:
        for event in running.events():
            observe(event)
    read = EventAccumulator(str(running.place / TENSORBOARD_FOLDER))
    read.Reload()
    for tag, name in (("train/loss", "loss"), ("train/learning_rate", "learning_rate")):
        found = [(each.step, each.value) for each in read.Scalars(tag)]
        assert found == [(step, pytest.approx(value)) for step, value in logged(running.folder, name)]
    dev = [(each.step, each.value) for each in read.Scalars("dev/perplexity")]
    assert dev == [(step, pytest.approx(value)) for step, value in logged(running.folder, "perplexity")]
    assert "best/perplexity" in read.Tags()["scalars"]


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_the_others_are_called_by_the_interface_of_wandb(
    name: str, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, Any]] = []
    package = SimpleNamespace(
        init=lambda **facts: calls.append(("init", facts)),
        log=lambda figures, step: calls.append(("log", (step, figures))),
        finish=lambda: calls.append(("finish", None)),
    )
    monkeypatch.setitem(sys.modules, name, package)
    with pytest.raises(KeyboardInterrupt), tracking(name, running) as observe:
        for event in running.events():
            observe(event)
            if running.training.progress.step == 2:
                raise KeyboardInterrupt
    assert [kind for kind, _ in calls] == ["init", "log", "log", "finish"]
    assert calls[0][1]["config"]["task"] == "text"
    assert [(step, figures["train/loss"]) for _, (step, figures) in calls[1:3]] == logged(
        running.folder, "loss"
    )


def test_what_is_unknown_or_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="one of tensorboard, trackio, wandb"):
        check_tracker("mlflow")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs the package wandb") as caught:
        check_tracker("wandb")
    assert caught.value.hint == "pip install 'explora[wandb]'"
