"""Fitting a run into minutes: the rehearsal leaves no trace, and the steps are those that fit."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from explora.core.config.precedence import resolve
from explora.core.config.run_config import TrainRun
from explora.core.runs.events import Completed, Fitted, TimeIsUp
from explora.core.runs.train import start_run
from explora.core.runtime.resolve import resolve_runtime
from explora.core.training import time_budget
from explora.core.training.checkpoint import Progress
from explora.core.training.events import StepDone
from explora.core.training.loop import Training
from explora.errors import TrainingError, UsageError

Prepare = Callable[..., TrainRun]


@pytest.fixture
def prepare(tiny_base: Path, tiny_data: Path) -> Prepare:
    """Resolve a run of eleven steps an epoch: more than a rehearsal takes at the least."""

    files = {"model": str(tiny_base), "data": str(tiny_data / "paraphrase")}
    settings = {"rank": 2, "batch_size": 2, "max_length": 96, "threads": 1, "amp": "off", "dropout": 0.1}

    def of(**options: Any) -> TrainRun:
        run, _ = resolve("paraphrase", {**files, **settings, **options})
        return dataclasses.replace(run, runtime=resolve_runtime(run.runtime))

    return of


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.fixture
def seven_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock of our own: a step takes 10 s, a dev score next to nothing."""
    monkeypatch.setattr(time_budget, "_evaluation_seconds", lambda training: 0.0)
    rehearsed = time_budget._step_seconds
    monkeypatch.setattr(time_budget, "_step_seconds", lambda *given: rehearsed(*given) and 10.0)


@pytest.mark.usefixtures("seven_steps")
def test_a_fitted_run_is_bit_for_bit_the_run_of_that_many_steps(prepare: Prepare, tmp_path: Path) -> None:
    events = list(start_run(prepare(max_minutes=80 / 60), tmp_path / "fitted").events())
    fitted = next(event for event in events if isinstance(event, Fitted))
    assert fitted.steps in (6, 7)  # a second or two are spent before
    list(start_run(prepare(max_steps=fitted.steps), tmp_path / "plain").events())
    assert losses(tmp_path / "fitted") == losses(tmp_path / "plain")
    weights = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("fitted", "plain")]
    assert weights[0] == weights[1]


@pytest.mark.usefixtures("seven_steps")
def test_the_steps_are_recorded_so_that_the_run_can_be_repeated(prepare: Prepare, tmp_path: Path) -> None:
    *_, completed = start_run(prepare(max_minutes=80 / 60), tmp_path).events()
    assert isinstance(completed, Completed)
    recorded = json.loads((tmp_path / "run.json").read_text())["config"]["training"]
    assert recorded["max_steps"] == completed.result.steps
    assert recorded["max_minutes"] == pytest.approx(80 / 60)
    assert not completed.result.stopped_early


def test_the_rehearsal_takes_real_steps_that_change_nothing(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = start_run(prepare(max_minutes=1.0), tmp_path)
    before = [value.detach().clone() for value in running.training.trained]
    draws = torch.random.get_rng_state()
    taken: list[StepDone] = []
    step = Training.take_step
    monkeypatch.setattr(
        Training, "take_step", lambda *given, **more: taken.append(step(*given, **more)) or taken[-1]
    )
    steps = time_budget.fit_steps(running.training, 600.0).steps
    assert len(taken) >= time_budget.FEWEST_STEPS
    assert steps > 10
    assert all(torch.equal(a, b) for a, b in zip(before, running.training.trained, strict=True))
    assert torch.equal(draws, torch.random.get_rng_state())
    assert running.training.progress == Progress()
    assert not any(optimizer.state for optimizer in running.training.optimizers)


def test_more_time_has_more_steps(prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_budget, "_step_seconds", lambda *given: 0.5)
    monkeypatch.setattr(time_budget, "_evaluation_seconds", lambda training: 10.0)
    training = start_run(prepare(max_minutes=1.0, eval_every=20), tmp_path).training
    found = [time_budget.fit_steps(training, seconds).steps for seconds in (100.0, 200.0)]
    # 0.98 of the time, less two scores, in steps that carry a twentieth of a score each
    assert found == [pytest.approx((0.98 * seconds - 20) / 1.0, abs=1) for seconds in (100, 200)]


def test_too_little_time_is_said_before_anything_is_trained(prepare: Prepare, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="too short") as caught:
        list(start_run(prepare(max_minutes=0.0001), tmp_path).events())
    assert re.match(r"give \d\.\d minutes more, .* --dev FILE", caught.value.hint)
    assert not list(tmp_path.iterdir())  # or the corrected call would be refused


@pytest.mark.usefixtures("seven_steps")
def test_a_machine_that_becomes_slow_ends_the_run_in_time(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = start_run(prepare(max_minutes=80 / 60), tmp_path)
    events: list[object] = []
    for event in running.events():
        events.append(event)
        if isinstance(event, Fitted):
            running.started = time.monotonic() - 1000
    assert sum(isinstance(event, TimeIsUp) for event in events) == 1
    completed = events[-1]
    assert isinstance(completed, Completed)
    assert completed.result.steps == 1 and completed.result.stopped_early


def test_what_comes_after_the_last_step_counts(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores of 200 s at the end: a run that has spent most of its time stops at once, so that they fit."""
    monkeypatch.setattr(time_budget, "_step_seconds", lambda *given: 0.1)
    monkeypatch.setattr(time_budget, "_evaluation_seconds", lambda training: 100.0)
    running = start_run(prepare(max_minutes=10.0), tmp_path, spent=150.0)
    events: list[object] = []
    for event in running.events():
        events.append(event)
        if isinstance(event, Fitted):
            assert running.closing_seconds == 200.0
            running.started = time.monotonic() - 420  # and 200 are more than the 600, less than these are not
    assert sum(isinstance(event, TimeIsUp) for event in events) == 1


def test_epochs_and_minutes_contradict_each_other() -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        resolve("paraphrase", {"epochs": 2, "max_minutes": 3.0})
