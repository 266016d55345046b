"""Samples of a run in progress: three moments, and no changed bit of the training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from explora.core.runs.events import Completed
from explora.core.runs.running import Running
from explora.core.runs.sampler import Sampler
from explora.core.runs.samples import BEST, MIDDLE, START, read_samples
from explora.core.runs.train import start_run
from tests.tiny_models import snapshot, tiny_run


@pytest.fixture(autouse=True)
def short_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("explora.core.runs.sampler.MAX_NEW_TOKENS", 64)


def train(folder: Path, base: Path, data: Path, *, samples: bool) -> Running:
    # Dropout, so that a sample that drew from the generators of the training would change it.
    run = tiny_run(base, data, max_steps=4, eval_every=1, dropout=0.1, learning_rate=0.1)
    running = start_run(run, folder)
    sampler = Sampler(running) if samples else None
    for event in running.events():
        if sampler:
            sampler(event)
    return running


def test_samples_are_taken_at_three_moments_and_change_no_bit(tiny_base, tiny_data, tmp_path):
    plain = train(tmp_path / "plain", tiny_base, tiny_data, samples=False)
    sampled = train(tmp_path / "sampled", tiny_base, tiny_data, samples=True)
    found = read_samples(tmp_path / "sampled")
    assert [each.moment for each in found] == [START, MIDDLE, BEST]
    assert [each.step for each in found[:2]] == [0, 2]
    assert len({each.prompt for each in found}) == 1
    assert found[0].text != found[1].text
    assert read_samples(tmp_path / "plain") == []
    one, other = snapshot(plain.session.model), snapshot(sampled.session.model)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_resumed_run_keeps_the_earlier_samples(tiny_base, tiny_data, tmp_path):
    run = tiny_run(tiny_base, tiny_data, max_steps=4, eval_every=2)
    running = start_run(run, tmp_path / "run")
    sampler = Sampler(running)
    for event in running.events():
        sampler(event)
        if running.training.progress.step == 3:
            break
    running.save()
    before = read_samples(tmp_path / "run")
    resumed = start_run(run, tmp_path / "run")
    assert resumed.resumed_at == 3
    sampler = Sampler(resumed)
    for event in resumed.events():
        sampler(event)
    assert isinstance(event, Completed)
    assert [each.moment for each in before] == [START, MIDDLE]
    assert read_samples(tmp_path / "run")[:2] == before
    assert read_samples(tmp_path / "run")[2].step == event.result.best_step
