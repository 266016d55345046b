"""Go on from trained weights: with more epochs in the same folder, or into another one (`--from`)."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from explora.core.config.concerns import DataConfig
from explora.core.config.precedence import resolve
from explora.core.config.run_config import TrainRun
from explora.core.data.batching import epoch_batches
from explora.core.runs import beginning
from explora.core.runs.open import open_run
from explora.core.runs.origin import inherit
from explora.core.runs.phases import longer
from explora.core.runs.record import read_record
from explora.core.runs.running import Running
from explora.core.runs.train import start_run
from explora.core.training.checkpoint import trained_tensors
from explora.core.training.events import EvalDone, StepDone
from explora.core.training.loop import Training
from explora.core.training.optimizers import schedule_factor
from explora.errors import AdapterError, IdentityError
from tests.tiny_models import PAIRS, finish, tiny_run

Prepare = Callable[..., TrainRun]
WEIGHTS = "adapter_model.safetensors"
# One task for each method; a whole model with a head shows whether that is loaded too.
TASK_OF = {
    method: "text" if ("text", method) in PAIRS and method != "full" else "sentiment" for _, method in PAIRS
}

SHORT = {"dropout": 0.1, "learning_rate": 0.01, "max_steps": 4, "eval_every": 2, "save_every": 1}
HERE = {"batch_size": 4, "device": "cpu", "amp": "off", "threads": 1}


@pytest.fixture(scope="module")
def prepare(tiny_base: Path, tiny_data: Path) -> Prepare:
    """Resolve a run on the tiny base, with dropout so that the generators count."""

    def of(task: str = "text", **options: Any) -> TrainRun:
        return tiny_run(tiny_base, tiny_data, task, **SHORT | options)

    return of


@pytest.fixture(scope="module")
def finished(prepare: Prepare, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of four steps."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    finish(start_run(prepare(), folder))
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "tokens_per_second"} for line in lines]


def give_scores(running: Running, scores: list[float]) -> None:
    left = iter(scores)
    running.training._dev_score = lambda: next(left)  # type: ignore[method-assign]


# --- more epochs ----------------------------------------------------------------------------------


def more(folder: Path, **length: int) -> TrainRun:
    record = read_record(folder)
    assert record is not None
    found = longer(record, length)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def lengthened(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """The finished run with four more steps, and the events of these."""
    folder = Path(shutil.copytree(finished, tmp_path_factory.mktemp("longer") / "run"))
    return folder, finish(start_run(more(folder, max_steps=8), folder))[0]


def test_a_second_phase_has_a_new_schedule_and_is_recorded(
    lengthened: tuple[Path, list[Any]], finished: Path
) -> None:
    folder, events = lengthened
    steps = [event for event in events if isinstance(event, StepDone)]
    assert [step.step for step in steps] == [5, 6, 7, 8]
    first, record = read_record(finished), read_record(folder)
    assert first is not None and record is not None
    schedule = schedule_factor(record.run.optimizer, 4)
    assert [step.learning_rate for step in steps] == [0.01 * schedule(step) for step in range(4)]
    assert [(phase.training, phase.result) for phase in record.earlier_phases] == [
        (first.run.training, first.result)
    ]
    assert (record.run.training.max_steps, record.result["steps"]) == (8, 8)
    assert record.result["tokens"] == first.result["tokens"] + sum(step.tokens for step in steps)
    assert record.identity == first.identity
    assert metrics(folder)[: len(metrics(finished))] == metrics(finished)


def first_loss(weights: Path, training: Training) -> float:
    """The loss, without dropout, of the weights in a folder on the rows that a training reads first."""
    at, runtime = training.progress, training.run.runtime
    session = open_run("text", str(weights), model=None, tokenizer=None, runtime=runtime)
    order = epoch_batches(
        training.lengths, training.examples_per_step, training.run.training.seed, at.step // 6
    )
    (batch,) = training.collate(order[at.step % 6], at.step // 6)  # an epoch has 6 steps
    with torch.no_grad():
        return float(session.task.loss(session.model, batch) / batch.weight)


@pytest.mark.parametrize("planted", [False, True])
def test_a_second_phase_starts_with_the_best_weights_and_the_next_rows(
    planted: bool, prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    finish(start_run(prepare(dropout=0.0), folder))
    if planted:  # the twin: the weights are forgotten
        monkeypatch.setattr(beginning, "restore_trained", lambda *_: None)
    running = start_run(more(folder, max_steps=8), folder)
    expected = first_loss(folder, running.training)
    step = next(event for event in running.events() if isinstance(event, StepDone))
    assert (step.loss == pytest.approx(expected, rel=1e-6)) is not planted


@pytest.mark.parametrize(("step", "save"), [(5, True), (5, False), (6, False), (7, True), (8, True)])
def test_an_interrupted_second_phase_gives_the_same_bytes(
    step: int, save: bool, run: Path, lengthened: tuple[Path, list[Any]]
) -> None:
    running = start_run(more(run, max_steps=8), run)
    for event in running.events():
        if isinstance(event, StepDone) and event.step == step:
            break
    if save:
        running.save()
    torch.manual_seed(step)
    record = read_record(run)
    assert record is not None and not record.finished
    finish(start_run(record.run, run))
    assert metrics(run) == metrics(lengthened[0])
    assert (run / WEIGHTS).read_bytes() == (lengthened[0] / WEIGHTS).read_bytes()


def test_the_first_phase_stays_the_best_until_a_score_is_better(run: Path) -> None:
    kept, record = (run / WEIGHTS).read_bytes(), read_record(run)
    assert record is not None
    running = start_run(more(run, max_steps=8), run)
    give_scores(running, [5.0, 6.0, math.nan])
    result = finish(running)[1].result
    assert (run / WEIGHTS).read_bytes() == kept
    assert (result.best_step, result.steps) == (record.result["best_step"], 8)
    again = start_run(more(run, max_steps=12), run)
    give_scores(again, [5.0, 4.0, 6.0])
    assert finish(again)[1].result.best_step == 10
    assert (run / WEIGHTS).read_bytes() != kept
    third = read_record(run)
    assert third is not None and [each.result["steps"] for each in third.earlier_phases] == [4, 8]


def test_only_more_is_more(finished: Path) -> None:
    record = read_record(finished)
    assert record is not None
    for length in ({}, {"max_steps": 4}, {"max_steps": 3}, {"learning_rate": 1.0}):
        assert longer(record, length) is None
    rows = record.result["examples"]
    more_epochs = longer(record, {"epochs": 9})
    assert more_epochs is not None
    assert (more_epochs.training.max_steps, more_epochs.training.steps(rows)) == (
        None,
        9 * math.ceil(rows / 4),
    )


def test_a_longer_run_is_trained_on_the_same_data(run: Path, prepare: Prepare, tmp_path: Path) -> None:
    longer_run = more(run, max_steps=8)
    data = Path(shutil.copytree(str(longer_run.data.data), tmp_path / "data"))
    text = (data / "train.txt").read_text(encoding="utf-8")
    (data / "train.txt").write_text(text[: len(text) // 2], encoding="utf-8")
    moved = dataclasses.replace(longer_run, data=dataclasses.replace(longer_run.data, data=str(data)))
    with pytest.raises(IdentityError, match="the training data in"):
        start_run(moved, run)
    record = read_record(run)
    assert record is not None and record.finished


# --- from another run -----------------------------------------------------------------------------


def from_run(start: Path, task: str = "text", **options: Any) -> TrainRun:
    chosen = SHORT | HERE | {"from_run": str(start)} | options
    return resolve(task, chosen, inherit(task, chosen, {}))[0]


@pytest.mark.parametrize(
    ("method", "planted"),
    [*((method, False) for method in TASK_OF), ("lora", True), ("full", True), ("last-linear", True)],
)
def test_a_run_from_another_one_starts_with_its_weights_and_its_dev_score(
    method: str, planted: bool, prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, start = TASK_OF[method], tmp_path / "first"
    first = prepare(task, method=method, learning_rate=0.1, max_steps=2)
    score = next(event for event in finish(start_run(first, start))[0] if isinstance(event, EvalDone)).score
    opened = open_run(task, str(start), model=None, tokenizer=None, runtime=first.runtime).model
    if planted:  # the twin: nothing is loaded
        monkeypatch.setattr(beginning, "load_start", lambda *_: None)
    running = start_run(from_run(start, task), tmp_path / "second")
    found, expected = trained_tensors(running.session.model), trained_tensors(opened)
    assert found.keys() == expected.keys()
    assert all(found[name].equal(expected[name]) for name in found) is not planted
    if planted:
        return
    assert running.run.method == first.method
    evaluated = next(event for event in running.events() if isinstance(event, EvalDone))
    assert (evaluated.step, evaluated.score, evaluated.best) == (0, score, True)
    record = read_record(tmp_path / "second")
    assert record is not None and record.origin is not None
    assert (record.origin.path, len(record.origin.digest)) == (str(start), 64)


def test_the_start_is_the_best_until_a_score_is_better(
    prepare: Prepare, finished: Path, tmp_path: Path
) -> None:
    running = start_run(from_run(finished), tmp_path / "new")
    give_scores(running, [5.0, 6.0, 7.0])
    assert finish(running)[1].result.best_step == 0
    old, new = load_file(finished / WEIGHTS), load_file(tmp_path / "new" / WEIGHTS)
    assert all(torch.equal(old[name], new[name]) for name in old)
    assert [line["step"] for line in metrics(tmp_path / "new")] == [0, 1, 2, 2, 3, 4, 4]


@pytest.mark.parametrize("step", [0, 1, 3])
def test_an_interrupted_run_from_another_one_needs_only_its_own_folder(
    step: int, prepare: Prepare, run: Path, tmp_path: Path
) -> None:
    chosen = from_run(run)
    finish(start_run(chosen, tmp_path / "whole"))
    running = start_run(chosen, tmp_path / "new")
    for event in running.events():
        if isinstance(event, EvalDone if step == 0 else StepDone) and event.step == step:
            break
    running.save()
    shutil.rmtree(run)
    torch.manual_seed(1)
    finish(start_run(chosen, tmp_path / "new"))
    assert metrics(tmp_path / "new") == metrics(tmp_path / "whole")
    assert (tmp_path / "new" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()


def test_weights_that_change_before_the_first_state_are_refused(
    prepare: Prepare, run: Path, tmp_path: Path
) -> None:
    start_run(from_run(run), tmp_path / "new")
    finish(start_run(more(run, max_steps=8), run))
    with pytest.raises(IdentityError, match="from which the run starts, have changed"):
        start_run(from_run(run), tmp_path / "new")


def test_an_adapter_of_peft_is_a_start(prepare: Prepare, run: Path, tmp_path: Path) -> None:
    """Without explora's header, as peft saves it again."""
    save_file(load_file(run / WEIGHTS), run / WEIGHTS)
    chosen = from_run(run)
    session = open_run("text", str(run), model=None, tokenizer=None, runtime=chosen.runtime)
    dev = session.task.load(chosen.data, "dev").examples
    running = start_run(chosen, tmp_path / "new")
    found = next(event for event in running.events() if isinstance(event, EvalDone))
    assert found.score == pytest.approx(session.task.dev_score(session.model, dev, 8).value, rel=1e-6)


def test_another_task_and_a_folder_without_weights_are_refused(
    prepare: Prepare, finished: Path, tmp_path: Path
) -> None:
    with pytest.raises(AdapterError, match="it was trained for text, not for sonnet"):
        from_run(finished, "sonnet")
    with pytest.raises(AdapterError, match="this folder has no trained weights"):
        from_run(tmp_path)


@pytest.mark.parametrize(("method", "hint"), [("lora", "explora merge-lora"), ("full", "instead of --from")])
def test_other_classes_are_refused(method: str, hint: str, prepare: Prepare, tmp_path: Path) -> None:
    rows = [f"a film that is number {row},{row % 2}" for row in range(20)]
    (tmp_path / "a.csv").write_text("\n".join(["sentence,label", *rows]))
    (tmp_path / "b.csv").write_text("\n".join(["sentence,label", *rows, "a third kind,2", "and one,2"]))
    first = prepare("sentiment", method=method, max_steps=2)
    first = dataclasses.replace(first, data=DataConfig(data=str(tmp_path / "a.csv")))
    finish(start_run(first, tmp_path / "first"))
    other = from_run(tmp_path / "first", "sentiment", data=str(tmp_path / "b.csv"))
    with pytest.raises(AdapterError, match=r"classes \(0, 1\), the data has \(0, 1, 2\)") as caught:
        start_run(other, tmp_path / "second")
    assert hint in caught.value.hint
