"""What full fine-tuning would take, said once while an adapter trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from explora.core.config.run_config import TrainRun
from explora.core.estimate.memory import predict
from explora.core.machine.facts import peak_memory_bytes
from explora.core.methods.full import Full
from explora.core.runs import full_fine_tuning as module
from explora.core.runs.events import Completed
from explora.core.runs.full_fine_tuning import AFTER_STEPS, FullFineTuningCost, predict_full_fine_tuning
from explora.core.runs.running import Running
from explora.core.runs.train import start_run
from explora.core.runtime.resolve import resolve_runtime
from explora.core.training.events import StepDone
from tests.tiny_models import tiny_run

Prepare = Callable[..., TrainRun]


@pytest.fixture
def prepare(tiny_base: Path, tiny_data: Path) -> Prepare:
    """Resolve a run on the tiny base that is long enough for a prediction."""

    def of(task: str = "paraphrase", **options: Any) -> TrainRun:
        run = tiny_run(tiny_base, tiny_data, task, **{"max_steps": AFTER_STEPS + 2, **options})
        return dataclasses.replace(run, runtime=resolve_runtime(run.runtime))

    return of


def test_it_comes_once_after_twenty_steps_and_into_the_result(prepare: Prepare, tmp_path: Path) -> None:
    events = list(start_run(prepare(rank=2), tmp_path).events())
    found = [number for number, event in enumerate(events) if isinstance(event, FullFineTuningCost)]
    assert len(found) == 1
    assert sum(isinstance(event, StepDone) for event in events[: found[0]]) == AFTER_STEPS
    completed = events[-1]
    assert isinstance(completed, Completed)
    assert completed.result.full_fine_tuning == events[found[0]]


@pytest.mark.parametrize("options", [{"method": "full"}, {"rank": 2, "max_steps": AFTER_STEPS - 1}])
def test_without_an_adapter_or_enough_steps_there_is_none(
    options: dict[str, object], prepare: Prepare, tmp_path: Path
) -> None:
    events = list(start_run(prepare(**options), tmp_path).events())
    assert not any(isinstance(event, FullFineTuningCost) for event in events)
    completed = events[-1]
    assert isinstance(completed, Completed)
    assert completed.result.full_fine_tuning is None


@pytest.mark.parametrize("task", ["paraphrase", "sonnet"])
def test_full_fine_tuning_takes_longer_and_more(
    task: str, prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_seconds", lambda work, device: 1e-3)  # whoever else uses the machine
    training = start_run(prepare(task, rank=2), tmp_path).training
    step = StepDone(
        step=1,
        steps=1000,
        epoch=0,
        loss=1.0,
        items=4,
        learning_rate=0.1,
        gradient_norm=1.0,
        tokens=600,
        seconds=0.5,
    )
    slow = dataclasses.replace(step, seconds=50.0)
    found = predict_full_fine_tuning(training, [slow] * 3 + [step] * 17)
    assert found.seconds == pytest.approx(0.5 * training.steps)  # the slow first steps do not count
    assert found.full_seconds > found.seconds
    assert abs(found.peak_memory_bytes - peak_memory_bytes()) < 64 << 20
    full = dataclasses.replace(training.run, method=Full())
    longest, shape = max(training.lengths), training.model.shape
    more = predict(full, shape, longest).peak - predict(training.run, shape, longest).peak
    assert found.full_peak_memory_bytes - found.peak_memory_bytes == more > 0


def test_the_rest_of_the_run_is_as_without_it(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(start_run(prepare(rank=2, dropout=0.1), tmp_path / "with").events())
    monkeypatch.setattr(Running, "_compare_with_full", lambda self, step: iter(()))
    list(start_run(prepare(rank=2, dropout=0.1), tmp_path / "without").events())
    weights = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("with", "without")]
    assert weights[0] == weights[1]
