"""Trainings: the CPU's curve, the same bits twice and after an interruption, in every precision."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from explora.core.config.run_config import TrainRun
from explora.core.config.values import Blocks
from explora.core.runs.events import Completed
from explora.core.runs.train import start_run
from explora.core.training.events import StepDone
from tests.gpu.conftest import Prepare
from tests.tiny_models import PAIRS, finish, snapshot, until_step

AMPS = (
    "off",
    "bf16",
    pytest.param(
        "fp16",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="CPUs emulate fp16: seconds a step"),
    ),
)
WITH_NOISE = {"dropout": 0.1}


def curve(run: TrainRun, folder: Path) -> list[float]:
    events, _ = finish(start_run(run, folder))
    return [event.loss for event in events if isinstance(event, StepDone)]


@pytest.mark.parametrize(("task", "method"), PAIRS)
def test_a_training_follows_the_cpu_s(
    prepare: Prepare, task: str, method: str, tmp_path: Path, gpu: torch.device
) -> None:
    steps = {"max_steps": 6, "method": method}
    here = curve(prepare(task, **steps), tmp_path / "gpu")
    there = curve(prepare(task, device="cpu", **steps), tmp_path / "cpu")
    assert here == pytest.approx(there, rel=1e-3)


@pytest.mark.parametrize("amp", AMPS)
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_training_in_half_precision_learns_as_in_fp32(
    prepare: Prepare, method: str, amp: str, tmp_path: Path
) -> None:
    settings = {"method": method, "max_steps": 12, "learning_rate": 3e-3}
    found = curve(prepare("text", amp=amp, **settings), tmp_path / "half")
    expected = curve(prepare("text", amp="off", **settings), tmp_path / "fp32")
    assert found == pytest.approx(expected, rel=0.03)
    assert found[-1] < found[0]


@pytest.mark.parametrize("amp", AMPS)
@pytest.mark.parametrize("method", ["lora", "full"])
def test_an_interrupted_run_ends_with_the_same_bits(
    prepare: Prepare, method: str, amp: str, tmp_path: Path
) -> None:
    run = prepare("text", method=method, amp=amp, max_steps=6, eval_every=2, **WITH_NOISE)
    whole = start_run(run, tmp_path / "whole")
    finish(whole)
    interrupted = start_run(run, tmp_path / "interrupted")
    list(until_step(interrupted, 3))
    interrupted.save()
    resumed = start_run(run, tmp_path / "interrupted")
    finish(resumed)
    expected, found = snapshot(whole.session.model), snapshot(resumed.session.model)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert losses_in(tmp_path / "interrupted") == losses_in(tmp_path / "whole")


def losses_in(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("task", ["paraphrase", "text"])
def test_the_same_seed_gives_the_same_bits(
    prepare: Prepare, task: str, checkpointing: bool, tmp_path: Path
) -> None:
    run = prepare(task, max_steps=5, amp="bf16", grad_checkpoint=checkpointing, **WITH_NOISE)
    assert curve(run, tmp_path / "first") == curve(run, tmp_path / "second")


def test_another_seed_gives_other_bits(prepare: Prepare, tmp_path: Path) -> None:
    settings = {"max_steps": 5, "amp": "bf16", **WITH_NOISE}
    first = curve(prepare("text", seed=1, **settings), tmp_path / "first")
    assert first != curve(prepare("text", seed=2, **settings), tmp_path / "second")


def test_kept_features_give_the_same_curve(prepare: Prepare, tmp_path: Path) -> None:
    settings = {"method": "lora", "layers": Blocks.parse("2-2"), "epochs": 3}
    kept = start_run(prepare("sentiment", **settings), tmp_path / "kept")
    events, completed = finish(kept)
    assert isinstance(completed, Completed)
    assert kept.training.feature_cache is not None and kept.training.feature_cache.fits
    found = [event.loss for event in events if isinstance(event, StepDone)]
    expected = curve(prepare("sentiment", feature_cache=0, **settings), tmp_path / "computed")
    assert found == pytest.approx(expected, rel=1e-4)
