"""The laws of kept features: the same training, with the frozen blocks run once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import pad

from explora.core.config.run_config import TrainRun
from explora.core.config.values import Blocks
from explora.core.model.gpt2 import GPT2, Features
from explora.core.runs.events import Completed
from explora.core.runs.train import start_run
from explora.core.tasks.contract import Example
from explora.core.training import feature_cache as feature_cache_module
from explora.core.training.checkpoint import trained_tensors
from explora.core.training.events import EvalDone, FeaturesDone, Finished, StepDone
from explora.core.training.feature_cache import FeatureCache
from explora.errors import WriteError
from tests.tiny_models import SHAPE, finish, randomise, tiny_run, until_step

Prepare = Callable[..., TrainRun]
STEPS = 22  # of 6, 5 (sonnet) or 3 (accumulated) an epoch
TOP = {"method": "lora", "layers": Blocks.parse("1-1"), "rank": 4}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sentiment last-linear": ("sentiment", {"method": "last-linear"}),
    "paraphrase last-linear": ("paraphrase", {"method": "last-linear"}),
    "paraphrase top block": ("paraphrase", TOP),
    "sentiment top block, with dropout in the adapters": ("sentiment", TOP | {"lora_dropout": 0.1}),
    "sonnet top block": ("sonnet", TOP),
    "sonnet top block itself": ("sonnet", {"method": "top", "blocks": 1}),
    "accumulated": ("paraphrase", TOP | {"accumulate": 2}),
    "gradient checkpointing": ("paraphrase", TOP | {"grad_checkpoint": True}),
    "clipped": ("sentiment", {"method": "last-linear", "clip": 0.01}),
}


@pytest.fixture
def prepare(tiny_base: Path, tiny_data: Path) -> Prepare:
    """Resolve a run on the tiny base, of which block 1 is the top; `prepare("text", method="full")`."""

    def of(task: str, **options: Any) -> TrainRun:
        return tiny_run(tiny_base, tiny_data, task, **options)

    return of


class Trained:
    """The curve of a run, its dev scores and what it trained, at its last step."""

    def __init__(self, run: TrainRun, folder: Path) -> None:
        running = start_run(run, folder)
        self.cache = running.training.feature_cache
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.scores: list[float] = []
        for event in running.events():
            if isinstance(event, StepDone):
                self.losses.append(event.loss)
                self.norms.append(event.gradient_norm)
            if isinstance(event, EvalDone):
                self.scores.append(event.score)
            if isinstance(event, Finished):
                break
        self.tensors = {name: value.clone() for name, value in trained_tensors(running.session.model).items()}

    def assert_equals(self, other: Trained) -> None:
        assert len(self.losses) == STEPS
        assert self.losses == pytest.approx(other.losses, rel=1e-5)
        assert self.norms == pytest.approx(other.norms, rel=1e-4)
        assert self.scores == pytest.approx(other.scores, rel=1e-5)
        for name, value in self.tensors.items():
            torch.testing.assert_close(value, other.tensors[name], rtol=1e-3, atol=1e-4)


def kept_and_computed_anew(run: TrainRun, anew: TrainRun, root: Path) -> tuple[Trained, Trained]:
    kept, computed = Trained(run, root / "kept"), Trained(anew, root / "anew")
    assert kept.cache is not None and computed.cache is None
    return kept, computed


# --- the same training ----------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_the_curve_is_that_of_computing_anew(case: str, prepare: Prepare, tmp_path: Path) -> None:
    task, options = CASES[case]
    run = prepare(task, max_steps=STEPS, **options)
    kept, anew = kept_and_computed_anew(
        run, prepare(task, max_steps=STEPS, feature_cache=0, **options), tmp_path
    )
    kept.assert_equals(anew)


def those_of_the_next_example(patch: pytest.MonkeyPatch) -> None:
    """Each example gets the features of its neighbour, fitted to its own length."""
    attach = FeatureCache.attach

    def wrong(cache: FeatureCache) -> list[Example]:
        examples = attach(cache)
        states = [example.features.states for example in examples if example.features]
        return [
            replace(example, features=Features(pad(theirs, (0, 0, 0, len(own) - len(theirs))), cache.depth))
            for example, own, theirs in zip(examples, states, states[1:] + states[:1], strict=True)
        ]

    patch.setattr(FeatureCache, "attach", wrong)


def one_block_less(patch: pytest.MonkeyPatch) -> None:
    """The model goes on a block too late."""
    features = GPT2.features

    def wrong(model: GPT2, input_ids: Any, depth: int, positions: Any = None) -> Features:
        return features(model, input_ids, depth - 1, positions)

    patch.setattr(GPT2, "features", wrong)


@pytest.mark.parametrize("bug", [those_of_the_next_example, one_block_less])
@pytest.mark.parametrize(
    "case",
    ["paraphrase last-linear", "paraphrase top block", "sonnet top block", "sonnet top block itself"],
)
def test_a_planted_bug_is_found(
    bug: Callable[[pytest.MonkeyPatch], None],
    case: str,
    prepare: Prepare,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The twin of the law above."""
    task, options = CASES[case]
    bug(monkeypatch)
    kept, anew = kept_and_computed_anew(
        prepare(task, max_steps=STEPS, **options),
        prepare(task, max_steps=STEPS, feature_cache=0, **options),
        tmp_path,
    )
    with pytest.raises(AssertionError):
        kept.assert_equals(anew)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_the_model_goes_on_from_its_features(depth: int) -> None:
    model = randomise(GPT2(SHAPE)).eval()
    ids = torch.randint(0, SHAPE.vocab_size, (3, 20), generator=torch.Generator().manual_seed(1))
    positions = torch.tensor([19, 4, 11])
    with torch.no_grad():
        features = model.features(ids, depth, positions)
        assert features.states.shape == (3, 1 if depth == 2 else 20, SHAPE.n_embd)
        assert torch.equal(model(features, positions), model(ids, positions))


# --- once -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "options"), [("sentiment", {"method": "last-linear"}), ("paraphrase", TOP)])
def test_frozen_blocks_run_once_for_training_and_all_dev_scores(
    task: str, options: dict[str, Any], prepare: Prepare, tmp_path: Path
) -> None:
    running = start_run(prepare(task, epochs=3, **options), tmp_path / "run")
    calls: list[int] = []
    running.session.model.h[0].register_forward_hook(lambda *_: calls.append(1))
    events, _ = finish(running)
    cache = running.training.feature_cache
    assert cache is not None and len(calls) == len(cache.batches)
    filled = [event for event in events if isinstance(event, FeaturesDone)]
    assert [event.examples for event in filled][-1] == filled[0].of == 22 + 5
    assert all(isinstance(event, FeaturesDone) for event in events[: len(filled)])


@pytest.mark.parametrize("amp", ["off", "bf16"])
@pytest.mark.parametrize("case", ["sentiment last-linear", "paraphrase top block"])
def test_the_file_has_the_size_that_was_said_and_goes_with_the_run(
    case: str, amp: str, prepare: Prepare, tmp_path: Path
) -> None:
    task, options = CASES[case]
    running = start_run(prepare(task, amp=amp, **options), tmp_path / "run")
    cache = running.training.feature_cache
    assert cache is not None and not cache.file.exists()
    examples = [*running.train.examples, *running.dev.examples]
    rows = len(examples) if case.endswith("linear") else sum(len(example.ids) for example in examples)
    assert cache.size == rows * SHAPE.n_embd * (2 if amp == "bf16" else 4)
    for event in running.events():
        if isinstance(event, StepDone):
            assert cache.file.stat().st_size == cache.size
            assert cache.file.parent == tmp_path / "run" / "checkpoint"
        completed = isinstance(event, Completed)
    assert completed and not cache.file.parent.exists()


# --- where it is of no use ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("sentiment", {"method": "full"}),
        ("sentiment", {"method": "lora"}),
        ("paraphrase", TOP | {"dropout": 0.1}),
        ("paraphrase", TOP | {"epochs": 1}),
        ("paraphrase", TOP | {"max_steps": 6}),
        ("paraphrase", TOP | {"feature_cache": 0}),
        ("text", TOP),
    ],
)
def test_nothing_is_kept_where_nothing_is_gained(
    task: str, options: dict[str, Any], prepare: Prepare, tmp_path: Path
) -> None:
    assert start_run(prepare(task, **options), tmp_path / "run").training.feature_cache is None


def test_an_epoch_and_a_step_are_enough(prepare: Prepare, tmp_path: Path) -> None:
    assert start_run(prepare("paraphrase", max_steps=7, **TOP), tmp_path / "run").training.feature_cache


@pytest.mark.parametrize(
    ("options", "depth"),
    [
        ({"method": "full"}, 0),
        ({"method": "lora"}, 0),
        ({"method": "lora", "layers": Blocks.parse("0-0")}, 0),
        ({"method": "lora", "layers": Blocks.parse("1-1")}, 1),
        ({"method": "last-linear"}, 2),
    ],
)
def test_the_depth_is_that_of_the_first_trained_block(
    options: dict[str, Any], depth: int, prepare: Prepare, tmp_path: Path
) -> None:
    running = start_run(prepare("paraphrase", **options), tmp_path / "run")
    assert running.session.model.frozen_depth() == depth


def test_too_large_a_cache_is_left_out(prepare: Prepare, tmp_path: Path) -> None:
    options = {"method": "last-linear", "max_steps": STEPS}
    size = (22 + 5) * SHAPE.n_embd * 4
    assert Trained(prepare("sentiment", feature_cache=size, **options), tmp_path / "a").cache.fits  # type: ignore[union-attr]
    left_out = Trained(prepare("sentiment", feature_cache=size - 1, **options), tmp_path / "b")
    assert left_out.cache is not None and not left_out.cache.fits
    assert not (tmp_path / "b" / "checkpoint" / "features.bin").exists()
    anew = Trained(prepare("sentiment", feature_cache=0, **options), tmp_path / "c")
    assert left_out.losses == anew.losses


def test_a_full_disk_is_seen_before(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepare("sentiment", method="last-linear")
    size = (22 + 5) * SHAPE.n_embd * 4
    spare = feature_cache_module.SPARE
    for free, fits in ((spare + size, True), (spare + size - 1, False), (0, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        cache = start_run(run, tmp_path / str(free)).training.feature_cache
        assert cache is not None and cache.fits == fits


def test_a_file_that_cannot_be_written_is_an_error_with_a_way_out(prepare: Prepare, tmp_path: Path) -> None:
    running = start_run(prepare("sentiment", method="last-linear"), tmp_path / "run")
    (tmp_path / "run" / "checkpoint").write_text("in the way")
    with pytest.raises(WriteError, match=r"features\.bin cannot be written: ") as caught:
        next(running.events())
    assert "--feature-cache off" in caught.value.hint


# --- resume ---------------------------------------------------------------------------------------


def adapter(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize("step", [3, 6, 9])
@pytest.mark.parametrize("case", ["sentiment last-linear", "paraphrase top block", "accumulated"])
def test_a_resumed_run_gives_the_same_bytes(case: str, step: int, prepare: Prepare, tmp_path: Path) -> None:
    task, options = CASES[case]
    run = prepare(task, **options, max_steps=13)
    whole, _ = finish(start_run(run, tmp_path / "whole"))
    first = start_run(run, tmp_path / "parts")
    begun = list(until_step(first, step))
    first.save()
    rest, _ = finish(start_run(run, tmp_path / "parts"))
    losses = [event.loss for event in [*begun, *rest] if isinstance(event, StepDone)]
    assert losses == [event.loss for event in whole if isinstance(event, StepDone)]
    assert adapter(tmp_path / "parts") == adapter(tmp_path / "whole")


@pytest.mark.parametrize("saved", [True, False])
def test_a_run_stopped_while_features_are_computed_starts_anew(
    saved: bool, prepare: Prepare, tmp_path: Path
) -> None:
    run = prepare("paraphrase", **TOP)
    finish(start_run(run, tmp_path / "whole"))
    first = start_run(run, tmp_path / "parts")
    assert all(isinstance(event, FeaturesDone) for event in islice(first.events(), 2))
    assert (tmp_path / "parts" / "checkpoint" / "features.bin").exists()
    if saved:  # by Ctrl-C, not by kill
        first.save()
    second = start_run(run, tmp_path / "parts")
    assert second.resumed_at == 0
    finish(second)
    assert adapter(tmp_path / "parts") == adapter(tmp_path / "whole")


def test_what_a_killed_run_left_behind_makes_room_for_itself(prepare: Prepare, tmp_path: Path) -> None:
    run = prepare("sentiment", method="last-linear")
    first = start_run(run, tmp_path / "run")
    list(until_step(first, 1))
    again = start_run(run, tmp_path / "run").training.feature_cache
    assert again is not None and again.file.exists()
    assert again.free == pytest.approx(
        shutil.disk_usage(tmp_path).free + again.size - feature_cache_module.SPARE, rel=0.05
    )
