"""The laws of training, over every task and method of the registry that go together.

All runs are on the tiny base, in fp32 and with dropout, so that the state of the generators matters.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from explora.core.config.concerns import DataConfig
from explora.core.config.registry import Shape, method_class
from explora.core.config.run_config import TrainRun
from explora.core.config.values import Blocks
from explora.core.data.batching import epoch_batches
from explora.core.files import whole_folder
from explora.core.model import gpt2 as model_module
from explora.core.model.gpt2 import GPT2
from explora.core.runs.events import Completed
from explora.core.runs.folder import Holds, check_folder, look_into, pending_folder
from explora.core.runs.open import open_run
from explora.core.runs.record import MetricsLog, read_record
from explora.core.runs.running import Running
from explora.core.runs.train import start_run
from explora.core.training import time_budget
from explora.core.training.events import EvalDone, EvalStarted, Event, Finished, Saved, StepDone
from explora.core.training.loop import Training
from explora.core.training.optimizers import schedule_factor
from explora.errors import DataError, TrainingError, UsageError
from tests.tiny_models import PAIRS, finish, snapshot, tiny_run

pytestmark = pytest.mark.usefixtures("short_poems")

Prepare = Callable[..., TrainRun]
TRAINED_FILES = ("adapter_model.safetensors", "adapter_config.json", "model.safetensors", "explora.json")


@pytest.fixture
def prepare(tiny_base: Path, tiny_data: Path) -> Prepare:
    """Resolve a run on the tiny base: `prepare("text", "lora", seed=3)`."""

    def of(task: str = "text", method: str = "lora", **options: Any) -> TrainRun:
        noise = {"dropout": 0.1} | ({"lora_dropout": 0.1} if method == "lora" else {})
        return tiny_run(tiny_base, tiny_data, task, **{"method": method, **noise, **options})

    return of


def train(run: TrainRun, folder: Path) -> tuple[list[Event], Completed]:
    return finish(start_run(run, folder))


def train_unscored(run: TrainRun, folder: Path) -> list[Event]:
    """Train without the last evaluation, which takes a sonnet's decoding."""
    return list(
        itertools.takewhile(lambda event: not isinstance(event, Finished), start_run(run, folder).events())
    )


def trained_bytes(folder: Path) -> dict[str, bytes]:
    """What training wrote, file by file."""
    found = {name: (folder / name).read_bytes() for name in TRAINED_FILES if (folder / name).exists()}
    assert found
    return found


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without how fast the machine was."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "tokens_per_second"} for line in lines]


def losses(events: list[Event]) -> list[float]:
    return [event.loss for event in events if isinstance(event, StepDone)]


class Reference:
    """Runs that were not interrupted, each made once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.known: dict[str, tuple[Path, list[Event], Completed]] = {}

    def __call__(self, run: TrainRun) -> tuple[Path, list[Event], Completed]:
        key = json.dumps(run.to_json())
        if key not in self.known:
            folder = self.root / str(len(self.known))
            self.known[key] = (folder, *train(run, folder))
        return self.known[key]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return Reference(tmp_path_factory.mktemp("reference"))


def assert_same_run(folder: Path, expected: Path) -> None:
    assert metrics(folder) == metrics(expected)
    assert trained_bytes(folder) == trained_bytes(expected)


# --- every task with every method -----------------------------------------------------------------


@pytest.mark.parametrize(("task", "method"), PAIRS)
def test_only_what_the_method_trains_gets_gradients_and_moves(
    task: str, method: str, prepare: Prepare, tmp_path: Path
) -> None:
    running = start_run(prepare(task, method), tmp_path / "run")
    model = running.session.model
    before = snapshot(model)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    reached: set[str] = set()
    clip = Training.clip

    def noted(training: Training) -> Tensor:
        reached.update(name for name, value in model.named_parameters() if value.grad is not None)
        return clip(training)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "clip", noted)
        for event in running.events():
            if isinstance(event, Finished):  # then the best comes back
                break
    moved = {name for name, value in snapshot(model).items() if not torch.equal(value, before[name])}
    assert reached == trained
    assert moved == trained
    assert bool(method_class(method).trains_base) == (trained == before.keys())


def test_the_same_seed_gives_the_same_bytes(prepare: Prepare, reference: Reference, tmp_path: Path) -> None:
    """The interrupted runs below prove this for every task and method."""
    torch.manual_seed(99)  # the process has drawn other numbers by then
    train(prepare(), tmp_path / "run")
    assert_same_run(tmp_path / "run", reference(prepare())[0])


@pytest.mark.parametrize(("task", "method"), PAIRS)
def test_another_seed_gives_another_run(
    task: str, method: str, prepare: Prepare, reference: Reference, tmp_path: Path
) -> None:
    first = next(start_run(prepare(task, method, seed=12), tmp_path / "run").events())
    assert isinstance(first, StepDone)
    assert first.loss != losses(reference(prepare(task, method))[1])[0]


def interrupt(run: TrainRun, folder: Path, step: int, *, save: bool = True) -> None:
    """Train up to a step and stop there as a signal does, or as a kill does, which saves nothing."""
    running = start_run(run, folder)
    for event in running.events():
        if isinstance(event, StepDone) and event.step == step:
            break
    if save:
        running.save()
    torch.manual_seed(step)  # the next process starts with another state


@pytest.mark.parametrize(("task", "method"), PAIRS)
def test_an_interrupted_run_gives_the_same_bytes(
    task: str, method: str, prepare: Prepare, reference: Reference, tmp_path: Path
) -> None:
    expected = reference(prepare(task, method))[0]
    interrupt(prepare(task, method), tmp_path / "run", step=3)
    events = train_unscored(prepare(task, method), tmp_path / "run")
    assert isinstance(events[0], StepDone) and events[0].step == 4
    assert_same_run(tmp_path / "run", expected)


@pytest.mark.parametrize(("task", "method"), PAIRS)
def test_accumulated_batches_are_one_large_batch(
    task: str, method: str, prepare: Prepare, tmp_path: Path
) -> None:
    quiet = {"dropout": 0.0, "epochs": 1} | ({"lora_dropout": 0.0} if method == "lora" else {})
    whole = train_unscored(prepare(task, method, **quiet), tmp_path / "whole")
    split = prepare(task, method, **quiet, batch_size=1, accumulate=4)
    parts = train_unscored(split, tmp_path / "parts")
    assert losses(parts) == pytest.approx(losses(whole), abs=1e-6, rel=1e-6)
    assert len(losses(whole)) >= 4


@pytest.mark.parametrize(("task", "method"), PAIRS)
def test_the_run_folder_opens_as_what_was_scored(
    task: str, method: str, prepare: Prepare, reference: Reference
) -> None:
    run = prepare(task, method)
    folder, events, completed = reference(run)
    best = [event for event in events if isinstance(event, EvalDone) and event.best][-1]
    session = open_run(task, str(folder), model=None, tokenizer=None, runtime=run.runtime)
    dev = session.task.load(run.data, "dev").examples
    assert session.task.dev_score(session.model, dev, 8).value == pytest.approx(best.score, rel=1e-6)
    assert completed.result.best_step == best.step


@pytest.mark.parametrize(("task", "method"), PAIRS)
def test_a_plain_loop_in_torch_gives_the_same_run(
    task: str, method: str, prepare: Prepare, tmp_path: Path
) -> None:
    run = prepare(task, method, clip=0.5, weight_decay=0.1, eval_every=2)
    running = start_run(run, tmp_path / "run")
    model, start = running.session.model, torch.get_rng_state()
    before = snapshot(model)
    events = itertools.takewhile(lambda event: not isinstance(event, Finished), running.events())
    steps = [event for event in events if isinstance(event, StepDone)]
    found = snapshot(model)
    for name, value in model.named_parameters():
        if value.requires_grad:
            value.data.copy_(before[name])
    torch.set_rng_state(start)
    for step, (loss, norm) in zip(steps, plain_loop(run, running), strict=True):
        assert (step.loss, step.gradient_norm) == pytest.approx((loss, norm), rel=1e-5)
    for name, value in snapshot(model).items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6, msg=name)


def plain_loop(run: TrainRun, running: Running) -> Iterator[tuple[float, float]]:
    """Train in the plainest way: no accumulation, no events, no resume state. Yields loss and norm."""
    model, task = running.session.model.train(), running.session.task
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    matrices = {name for name in trained if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))}
    matrices |= {"wte.weight", "wpe.weight"} & trained.keys()
    groups = [
        {"params": [value], "weight_decay": 0.1 if name in matrices else 0.0}
        for name, value in trained.items()
    ]
    optimizer = torch.optim.AdamW(groups, fused=True)  # bias gradients that are noise alone round alike
    lengths = [len(example.ids) for example in running.train.examples]
    batches = [
        (epoch, rows)
        for epoch in range(run.training.epochs)
        for rows in epoch_batches(lengths, run.training.batch_size, run.training.seed, epoch)
    ]
    factor = schedule_factor(run.optimizer, len(batches))
    for step, (epoch, rows) in enumerate(batches):
        for group, name in zip(optimizer.param_groups, trained, strict=True):
            ratio = 16 if run.method.name == "lora-plus" and name.endswith("lora_B") else 1
            group["lr"] = run.optimizer.learning_rate * ratio * factor(step)
        batch = task.collate([running.train.examples[row] for row in rows], epoch)
        loss = task.loss(model, batch) / batch.weight
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained.values(), 0.5)
        optimizer.step()
        yield loss.item(), norm.item()


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_rehearsal_between_two_steps_changes_no_bit(
    method: str, prepare: Prepare, reference: Reference, tmp_path: Path
) -> None:
    running = start_run(prepare(method=method), tmp_path / "run")
    for event in running.events():
        if isinstance(event, StepDone) and event.step == 3:
            with time_budget._rehearsing(running.training):
                done = [running.training.take_step([0, 1, 2], epoch=0) for _ in range(2)]
            assert [step.learning_rate for step in done] == [0.0, 0.0]
            assert done[0].loss != done[1].loss  # dropout draws random numbers
    assert_same_run(tmp_path / "run", reference(prepare(method=method))[0])


# --- the events -----------------------------------------------------------------------------------


def test_the_events_tell_the_whole_run(prepare: Prepare, reference: Reference) -> None:
    run = prepare()
    folder, events, completed = reference(run)
    steps = [event for event in events if isinstance(event, StepDone)]
    assert [event.step for event in steps] == list(range(1, 13))
    assert {event.steps for event in steps} == {12}
    assert [event.epoch for event in steps] == [0] * 6 + [1] * 6
    factor = schedule_factor(run.optimizer, 12)
    rates = [run.optimizer.learning_rate * factor(step) for step in range(12)]
    assert [event.learning_rate for event in steps] == rates
    assert sum(event.tokens for event in steps[:6]) == sum(event.tokens for event in steps[6:])
    assert completed.result.tokens == sum(event.tokens for event in steps)
    kinds = [type(event) for event in events if not isinstance(event, StepDone)]
    assert kinds == [EvalStarted, EvalDone, Saved] * 2 + [Finished]
    assert [line["step"] for line in metrics(folder)] == [1, 2, 3, 4, 5, 6, 6, 7, 8, 9, 10, 11, 12, 12]


def test_the_first_events_need_no_whole_run(prepare: Prepare, tmp_path: Path) -> None:
    events = start_run(prepare(), tmp_path / "run").events()
    assert [event.step for event in itertools.islice(events, 3)] == [1, 2, 3]


def test_the_loss_falls(prepare: Prepare, tmp_path: Path) -> None:
    events, _ = train(prepare(method="full", learning_rate=5e-3, epochs=5), tmp_path / "run")
    found = losses(events)
    assert sum(found[-6:]) < sum(found[:6]) - 1


def test_the_longest_batch_comes_first(prepare: Prepare, tmp_path: Path) -> None:
    running = start_run(prepare("paraphrase"), tmp_path / "run")
    padded: list[int] = []
    loss = running.session.task.loss

    def noted(model: GPT2, batch: Any) -> torch.Tensor:
        padded.append(batch.input_ids.numel())
        return loss(model, batch)

    running.session.task.loss = noted  # type: ignore[method-assign]
    finish(running)
    assert padded[0] == max(padded)


@pytest.mark.parametrize(("wanted", "epochs"), [(4, 1), (9, 2), (12, 2), (14, 3)])
def test_max_steps_is_the_number_of_steps(wanted: int, epochs: int, prepare: Prepare, tmp_path: Path) -> None:
    events, completed = train(prepare(max_steps=wanted), tmp_path / "run")
    steps = [event for event in events if isinstance(event, StepDone)]
    assert len(steps) == completed.result.steps == wanted
    assert steps[-1].epoch == epochs - 1
    assert [event.step for event in events if isinstance(event, EvalDone)][-1] == wanted


def test_clipping_bounds_the_update_and_not_the_report(prepare: Prepare, tmp_path: Path) -> None:
    quiet = {"dropout": 0.0, "lora_dropout": 0.0}
    free, _ = train(prepare(**quiet, clip=0.0), tmp_path / "free")
    clipped, _ = train(prepare(**quiet, clip=1e-3), tmp_path / "clipped")
    norms = [[event.gradient_norm for event in run if isinstance(event, StepDone)] for run in (free, clipped)]
    assert norms[0][0] == norms[1][0] > 1e-3
    assert losses(free) != losses(clipped)


def test_the_best_is_kept_and_not_the_last(prepare: Prepare, tmp_path: Path) -> None:
    """Scores are given, so that the best is at step 4; a run of four steps gives the same adapter."""
    steady = {"schedule": "constant", "warmup": 0.0, "eval_every": 2}
    running = start_run(prepare(**steady), tmp_path / "run")
    give_scores(running, [5.0, 3.0, 3.0, 4.0, 3.5, 3.1])
    _, completed = finish(running)
    assert completed.result.best_step == 4
    session = open_run("text", str(tmp_path / "run"), model=None, tokenizer=None, runtime=running.run.runtime)
    dev = running.dev.examples
    assert completed.result.evaluation.scores == session.task.evaluate(session.model, dev, dev, 8).scores
    short = start_run(prepare(**steady, max_steps=4), tmp_path / "short")
    give_scores(short, [5.0, 3.0])
    finish(short)
    assert trained_bytes(tmp_path / "run") == trained_bytes(tmp_path / "short")


def give_scores(running: Running, scores: list[float]) -> None:
    given = iter(scores)
    running.training._dev_score = lambda: next(given)  # type: ignore[method-assign]


@pytest.mark.parametrize("higher", [False, True])
def test_patience_counts_evaluations_without_a_new_best(
    higher: bool, prepare: Prepare, tmp_path: Path
) -> None:
    running = start_run(prepare(eval_every=1, patience=2), tmp_path / "run")
    running.session.task.higher_is_better = higher
    scores = [1.0, 2.0, 1.0, 3.0, 3.0, 2.9, 7.0]
    give_scores(running, scores if higher else [-score for score in scores])
    events, completed = finish(running)
    assert completed.result.stopped_early is True
    assert (completed.result.steps, completed.result.best_step) == (6, 4)
    assert [event.best for event in events if isinstance(event, EvalDone)] == [
        True,
        True,
        False,
        True,
        False,
        False,
    ]


def test_without_patience_a_run_goes_to_its_end(reference: Reference, prepare: Prepare) -> None:
    assert reference(prepare())[2].result.stopped_early is False


# --- numbers that are none ------------------------------------------------------------------------


def test_too_high_a_learning_rate_stops_with_step_and_hint(prepare: Prepare, tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        train(prepare(method="full", learning_rate=1e25, eval_every=1), tmp_path / "run")
    assert caught.value.message.startswith(("the loss is ", "the norm of the gradient is "))
    assert caught.value.message.endswith(" at step 2")
    assert caught.value.hint == "lower the learning rate (--lr 3e+24)"
    assert not (tmp_path / "run" / "model.safetensors").exists()  # a score that is no number is no best


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_number_that_is_none_leaves_the_last_good_adapter(
    what: str, prepare: Prepare, tmp_path: Path
) -> None:
    running = start_run(prepare(eval_every=2), tmp_path / "run")
    loss, calls = running.session.task.loss, itertools.count(1)

    def fails_at_the_fifth(model: GPT2, batch: Any) -> torch.Tensor:
        right = loss(model, batch)
        if next(calls) < 5:
            return right
        if what == "loss":
            return right * math.nan
        return right + (right - right.detach()).sign().sqrt() * 0 + _infinite_slope(right)

    running.session.task.loss = fails_at_the_fifth  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match="at step 5"):
        finish(running)
    session = open_run("text", str(tmp_path / "run"), model=None, tokenizer=None, runtime=running.run.runtime)
    assert session.header is not None and session.header.best_step in (2, 4)
    assert all(bool(torch.isfinite(value).all()) for value in session.model.parameters())
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1, 2, 2, 3, 4, 4]


def _infinite_slope(value: torch.Tensor) -> torch.Tensor:
    """Zero, with an infinite derivative."""
    return (value - value.detach()).abs().sqrt()


def test_scores_that_are_no_numbers_are_never_the_best(prepare: Prepare, tmp_path: Path) -> None:
    running = start_run(prepare(eval_every=2), tmp_path / "run")
    give_scores(running, [math.nan, 4.0, math.nan, 5.0, math.inf, 4.5])
    assert finish(running)[1].result.best_step == 4


def test_a_run_without_any_score_says_so(prepare: Prepare, tmp_path: Path) -> None:
    running = start_run(prepare(), tmp_path / "run")
    give_scores(running, [math.nan] * 2)
    with pytest.raises(TrainingError, match="never a number"):
        finish(running)


# --- resuming -------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", range(1, 13))
def test_interrupted_after_any_step(
    step: int, prepare: Prepare, reference: Reference, tmp_path: Path
) -> None:
    """Mid-epoch, at an epoch's end, where an evaluation is due, after the last step."""
    run = prepare(eval_every=4)
    interrupt(run, tmp_path / "run", step)
    train(run, tmp_path / "run")
    assert_same_run(tmp_path / "run", reference(run)[0])


def test_interrupted_after_every_step(prepare: Prepare, reference: Reference, tmp_path: Path) -> None:
    run = prepare(eval_every=4)
    for step in range(1, 13):
        interrupt(run, tmp_path / "run", step)
    train(run, tmp_path / "run")
    assert_same_run(tmp_path / "run", reference(run)[0])


@pytest.mark.parametrize("lost", ["generator", "moments"])
def test_the_comparison_sees_a_state_that_is_not_restored(
    lost: str, prepare: Prepare, reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepare(eval_every=4)
    interrupt(run, tmp_path / "run", step=5)
    if lost == "generator":
        monkeypatch.setattr(torch, "set_rng_state", lambda state: None)
    else:
        monkeypatch.setattr("explora.core.training.checkpoint._restore_optimizer", lambda *_: None)
    train(run, tmp_path / "run")
    expected = reference(run)[0]
    assert metrics(tmp_path / "run")[:6] == metrics(expected)[:6]
    assert metrics(tmp_path / "run") != metrics(expected)
    assert trained_bytes(tmp_path / "run") != trained_bytes(expected)


@pytest.mark.parametrize("step", [1, 2, 5, 6, 7, 9, 11])
def test_killed_after_a_step(step: int, prepare: Prepare, reference: Reference, tmp_path: Path) -> None:
    """Nothing is saved at the kill: the run goes on from the last save, or from the start."""
    run = prepare(save_every=2)
    interrupt(run, tmp_path / "run", step, save=False)
    train(run, tmp_path / "run")
    assert_same_run(tmp_path / "run", reference(run)[0])


@pytest.mark.parametrize("save", [True, False])
@pytest.mark.parametrize("kind", [EvalStarted, EvalDone, Saved, Finished])
def test_stopped_around_an_evaluation(
    kind: type, save: bool, prepare: Prepare, reference: Reference, tmp_path: Path
) -> None:
    run = prepare()
    running = start_run(run, tmp_path / "run")
    for event in running.events():
        if isinstance(event, kind):
            break
    if save:
        running.save()
    torch.manual_seed(1)
    train(run, tmp_path / "run")
    assert_same_run(tmp_path / "run", reference(run)[0])


@pytest.mark.parametrize("moment", ["dev_score", "save_trained", "add"])
def test_an_evaluation_that_is_broken_off_is_made_again(
    moment: str, prepare: Prepare, reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an exception inside it, after which the state is saved: what a signal does."""
    run = prepare()
    running = start_run(run, tmp_path / "run")

    class Stopped(Exception):
        pass

    def stop(*arguments: Any) -> None:
        raise Stopped

    if moment == "dev_score":
        running.session.task.dev_score = stop  # type: ignore[method-assign]
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        if moment == "save_trained":
            patch.setattr("explora.core.runs.running.save_trained", stop)
        for event in running.events():
            if moment == "add" and isinstance(event, EvalStarted):
                patch.setattr(running.log, "add", stop)
    running.save()
    train(run, tmp_path / "run")
    assert_same_run(tmp_path / "run", reference(run)[0])


def test_patience_is_remembered(prepare: Prepare, tmp_path: Path) -> None:
    run = prepare(eval_every=1, patience=3)
    scores = [1.0, 2.0, 3.0, 4.0, 5.0]
    running = start_run(run, tmp_path / "run")
    give_scores(running, scores)
    for event in running.events():
        if isinstance(event, StepDone) and event.step == 3:
            break
    running.save()
    again = start_run(run, tmp_path / "run")
    give_scores(again, scores[2:])
    assert finish(again)[1].result.steps == 4


VARIANTS: dict[str, dict[str, Any]] = {
    "muon": {"method": "full", "optimizer": "muon"},
    "bf16": {"amp": "bf16"},
    "bf16 full": {"method": "full", "amp": "bf16"},
    "fp16": {"amp": "fp16"},
    "fp16 full": {"method": "full", "amp": "fp16"},
    "accumulate": {"accumulate": 2, "batch_size": 2},
    "checkpointing": {"grad_checkpoint": True},
    "cosine": {"schedule": "cosine"},
    "layers": {"layers": Blocks.parse("1-1")},
    "max_steps": {"max_steps": 9},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_way_to_train_resumes_to_the_same_bytes(
    name: str, prepare: Prepare, reference: Reference, tmp_path: Path
) -> None:
    run = prepare(**VARIANTS[name])
    expected, events, _ = reference(run)
    assert all(math.isfinite(loss) for loss in losses(events))
    interrupt(run, tmp_path / "run", step=4)
    train(run, tmp_path / "run")
    assert_same_run(tmp_path / "run", expected)


def test_the_loss_scale_is_resumed(prepare: Prepare, tmp_path: Path) -> None:
    """A scale that has come down, and its counter, decide the bits of the steps to come."""
    run = prepare(amp="fp16")
    running = start_run(run, tmp_path / "run")
    for event in running.events():
        if isinstance(event, StepDone) and event.step == 3:
            break
    running.training.scaler.update(64.0)
    expected = running.training.scaler.state_dict()
    running.save()
    assert start_run(run, tmp_path / "run").training.scaler.state_dict() == expected


@pytest.mark.parametrize("method", ["full", "lora"])
def test_recomputation_gives_the_same_bytes(
    method: str, prepare: Prepare, reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recomputed, whole = itertools.count(), model_module.checkpointed
    monkeypatch.setattr(model_module, "checkpointed", lambda *a, **k: (next(recomputed), whole(*a, **k))[1])
    train(prepare(method=method, grad_checkpoint=True), tmp_path / "run")
    assert next(recomputed) == 12 * 2  # steps times blocks; evaluations keep nothing anyway
    assert_same_run(tmp_path / "run", reference(prepare(method=method))[0])


def test_a_base_from_scratch_resumes_with_its_own_tokenizer(
    prepare: Prepare, reference: Reference, tmp_path: Path
) -> None:
    shape = Shape(n_layer=1, n_head=2, n_embd=16, n_positions=32, vocab_size=280)
    run = dataclasses.replace(prepare(method="full", from_scratch=shape), model="embedded")
    expected = reference(run)[0]
    interrupt(run, tmp_path / "run", step=4)
    assert (tmp_path / "run" / "tokenizer.json").read_bytes() == (expected / "tokenizer.json").read_bytes()
    train(run, tmp_path / "run")
    assert_same_run(tmp_path / "run", expected)


# --- the folder -----------------------------------------------------------------------------------


@pytest.fixture
def finished(prepare: Prepare, tmp_path: Path) -> Iterator[Path]:
    train(prepare(max_steps=1), tmp_path / "run")
    yield tmp_path / "run"


def test_a_finished_run_is_recorded_and_its_state_is_gone(finished: Path, prepare: Prepare) -> None:
    record = read_record(finished)
    assert record is not None and record.run == prepare(max_steps=1)
    assert record.result["steps"] == 1
    assert sorted(item.name for item in finished.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "metrics.jsonl",
        "run.json",
    ]


def test_an_occupied_folder_is_refused(finished: Path) -> None:
    with pytest.raises(UsageError) as caught:
        check_folder(finished, overwrite=False)
    assert "is not empty" in caught.value.message
    assert "--resume" in caught.value.hint and "--overwrite" in caught.value.hint


def test_a_folder_that_is_not_a_runs_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("{}", encoding="utf-8")
    (tmp_path / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(UsageError, match="is not a run folder, so --overwrite does not replace it"):
        check_folder(tmp_path, overwrite=True)
    with pytest.raises(UsageError, match="is a file"):
        check_folder(tmp_path / "thesis.tex", overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_new_or_an_empty_folder_is_fine(tmp_path: Path, overwrite: bool) -> None:
    check_folder(tmp_path / "new" / "run", overwrite=overwrite)
    check_folder(tmp_path, overwrite=overwrite)


def test_replacing_leaves_nothing_of_the_run_before(finished: Path, prepare: Prepare) -> None:
    (finished / "notes.txt").write_text("gone", encoding="utf-8")
    check_folder(finished, overwrite=True)
    finish(start_run(prepare(method="full", max_steps=2), finished, replace=True))
    assert not (finished / "notes.txt").exists()
    assert not (finished / "adapter_model.safetensors").exists()
    assert [line["step"] for line in metrics(finished)] == [1, 2, 2]


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_kill_while_the_old_run_is_replaced_leaves_one_whole_and_the_new_one_resumes(
    renames: int, finished: Path, prepare: Prepare, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, old = prepare(seed=12), trained_bytes(finished)
    running = start_run(run, finished, replace=True)
    rename, left = Path.replace, renames

    class Killed(BaseException):
        pass

    def dies(path: Path, to: Path) -> Path:
        nonlocal left
        if path not in (finished, pending_folder(finished)):
            return rename(path, to)
        if not left:
            raise Killed
        left -= 1
        return rename(path, to)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Path, "replace", dies)
        if renames == 2:
            patch.setattr(MetricsLog, "add", _killing_after_a_swap(finished, Killed))
        finish(running)
    assert (trained_bytes(whole_folder(finished)) == old) == (renames < 2)
    open_run("text", str(finished), model=None, tokenizer=None, runtime=run.runtime)
    expected = Holds.UNFINISHED if renames == 2 else Holds.PENDING
    assert look_into(finished).holds is expected
    train(run, finished)
    assert_same_run(finished, reference(run)[0])
    assert [item.name for item in finished.parent.iterdir()] == ["run"]


def _killing_after_a_swap(folder: Path, killed: type[BaseException]) -> Callable[..., None]:
    """Return a method of a log that adds lines until the log lies in the folder."""
    add = MetricsLog.add

    def adds(log: MetricsLog, values: dict[str, Any]) -> None:
        if log.file.parent == folder:
            raise killed
        add(log, values)

    return adds


def test_replacing_also_forgets_the_resume_state(prepare: Prepare, tmp_path: Path) -> None:
    interrupt(prepare(), tmp_path / "run", step=3)
    running = start_run(prepare(), tmp_path / "run", replace=True)
    assert running.resumed_at == 0


def test_a_run_that_cannot_start_removes_nothing(finished: Path, prepare: Prepare) -> None:
    kept = trained_bytes(finished)
    broken = dataclasses.replace(prepare(), data=DataConfig(data=str(finished / "no such file.txt")))
    with pytest.raises(DataError, match="no such file"):
        start_run(broken, finished, replace=True)
    assert trained_bytes(finished) == kept


def test_a_run_folder_called_like_a_model_is_still_the_folder(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`-o gpt2 --full`: the best comes back from the folder, not from the hub."""
    monkeypatch.chdir(tmp_path)
    run = prepare(method="full", max_steps=1)
    _, completed = train(run, Path("gpt2"))
    assert completed.result.steps == 1
    session = open_run("text", "./gpt2", model=None, tokenizer=None, runtime=run.runtime)
    assert session.header is not None and session.header.best_step == 1
