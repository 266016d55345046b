"""Resume state: everything comes back to the bit, a kill at any moment leaves a complete one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file
from torch import Tensor

from explora.core.config.concerns import OptimizerConfig
from explora.core.config.registry import Shape
from explora.core.model.gpt2 import GPT2
from explora.core.training import checkpoint
from explora.core.training.checkpoint import (
    Progress,
    generator_states,
    has_checkpoint,
    load_checkpoint,
    save_checkpoint,
    trained_tensors,
)
from explora.core.training.optimizers import make_optimizers
from explora.errors import CheckpointError
from tests.tiny_models import make_method, randomise

TINY = Shape(n_layer=2, n_head=2, n_embd=8, n_positions=12, vocab_size=17)
PROGRESS = Progress(
    step=7,
    epoch=2,
    batch=3,
    tokens=99,
    seconds=1 / 3,
    best_step=5,
    best_score=0.1 + 0.2,
    evaluated=6,
    unimproved=1,
)
SETUPS = [("lora", "adamw"), ("full", "adamw"), ("full", "muon")]


def drawn_from() -> list[dict[str, Tensor]]:
    return [generator_states(torch.device("cpu"))]


def prepare(method: str, optimizer: str, rank: int = 2) -> tuple[GPT2, list[torch.optim.Optimizer]]:
    torch.manual_seed(0)
    model = randomise(GPT2(TINY))
    chosen = make_method(method, rank=rank)
    chosen.apply(model)
    return model, make_optimizers(model, chosen, OptimizerConfig(optimizer=optimizer))


def train(model: GPT2, optimizers: list[torch.optim.Optimizer], steps: int) -> None:
    """Steps on random gradients, drawn from the generator that a checkpoint keeps."""
    for _ in range(steps):
        for value in trained_tensors(model):
            parameter = model.get_parameter(value)
            parameter.grad = torch.randn_like(parameter)
        for optimizer in optimizers:
            optimizer.step()


def state_of(model: GPT2, optimizers: list[torch.optim.Optimizer]) -> dict[str, Any]:
    found: dict[str, Any] = {name: value.clone() for name, value in model.state_dict().items()}
    for number, optimizer in enumerate(optimizers):
        for parameter, values in optimizer.state_dict()["state"].items():
            found |= {f"{number}.{parameter}.{key}": value for key, value in values.items()}
    return found


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        same = torch.equal(found[name], value) if isinstance(value, Tensor) else found[name] == value
        assert same, name


@pytest.mark.parametrize(("method", "optimizer"), SETUPS)
def test_everything_comes_back(tmp_path: Path, method: str, optimizer: str) -> None:
    model, optimizers = prepare(method, optimizer)
    train(model, optimizers, 3)
    save_checkpoint(
        tmp_path,
        model,
        optimizers,
        PROGRESS,
        {"scale": 64.0, "_growth_tracker": 5},
        drawn_from(),
    )
    train(model, optimizers, 2)
    torch.manual_seed(123)  # another process draws something else
    again, fresh = prepare(method, optimizer)
    progress, scaler = load_checkpoint(tmp_path, again, fresh)
    assert (progress, scaler) == (PROGRESS, {"scale": 64.0, "_growth_tracker": 5})
    train(again, fresh, 2)
    assert_same(state_of(again, fresh), state_of(model, optimizers))


@pytest.mark.parametrize("lost", ["exp_avg", "exp_avg_sq", "step", "generator"])
def test_the_comparison_sees_what_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    """The twin of the test above: a state without one part does not give the same bits."""
    model, optimizers = prepare("lora", "adamw")
    train(model, optimizers, 3)
    save_checkpoint(tmp_path, model, optimizers, PROGRESS, {}, drawn_from())
    train(model, optimizers, 2)
    torch.manual_seed(123)
    again, fresh = prepare("lora", "adamw")
    whole = load_file

    def without(path: Path) -> dict[str, Tensor]:
        stand_in = torch.get_rng_state() if lost == "generator" else torch.ones(1)
        return {
            name: (stand_in if lost == "generator" else value * 0 + stand_in)
            if name.endswith(lost)
            else value
            for name, value in whole(path).items()
        }

    monkeypatch.setattr(checkpoint, "load_file", without)
    load_checkpoint(tmp_path, again, fresh)
    train(again, fresh, 2)
    with pytest.raises(AssertionError):
        assert_same(state_of(again, fresh), state_of(model, optimizers))


def test_what_is_frozen_is_not_stored(tmp_path: Path) -> None:
    model, optimizers = prepare("lora", "adamw")
    save_checkpoint(tmp_path, model, optimizers, Progress(), {}, drawn_from())
    names = {name for name in load_file(tmp_path / "a" / "state.safetensors") if name.startswith("weights.")}
    assert names == {f"weights.{name}" for name in trained_tensors(model)}


def test_the_peak_memory_is_the_largest_of_all_processes(tmp_path: Path) -> None:
    model, optimizers = prepare("lora", "adamw")
    for earlier in (0, 10**15):
        save_checkpoint(tmp_path, model, optimizers, Progress(peak_memory_bytes=earlier), {}, drawn_from())
        found = load_checkpoint(tmp_path, model, optimizers)[0].peak_memory_bytes
        assert found == max(earlier, found) > 0


def test_there_is_one_state_and_no_pickle(tmp_path: Path) -> None:
    model, optimizers = prepare("lora", "adamw")
    for step in range(4):
        save_checkpoint(tmp_path, model, optimizers, Progress(step=step), {}, drawn_from())
        assert load_checkpoint(tmp_path, model, optimizers)[0].step == step
        assert len([item for item in tmp_path.iterdir() if item.is_dir()]) == 1
    files = sorted(file.suffix for file in tmp_path.rglob("*") if file.is_file())
    assert files == ["", ".json", ".safetensors"]


class Killed(BaseException):
    """Stands for kill -9: nothing after it runs."""


@pytest.mark.parametrize("saves_before", [1, 2])
@pytest.mark.parametrize(
    "moment",
    [
        *(
            "remove_folder",
            "mkdir",
            "save_file",
            "asdict",
            "write_bytes",
            "replace",
            "replace+1",
            "replace+2",
        ),
        "remove_folder+1",
    ],
)
def test_a_kill_at_any_moment_leaves_a_complete_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, saves_before: int
) -> None:
    """Every operation on files that saving makes is, in turn, the last one: done by half, then killed."""
    model, optimizers = prepare("lora", "adamw")
    for step in range(1, saves_before + 1):
        save_checkpoint(tmp_path, model, optimizers, Progress(step=step), {}, drawn_from())
    name, _, later = moment.partition("+")
    left = int(later or 0)
    owner: Any = {"remove_folder": checkpoint, "save_file": safetensors.torch, "asdict": checkpoint}.get(
        name, Path
    )
    real = getattr(owner, name)

    def dies(*arguments: Any, **options: Any) -> Any:
        nonlocal left
        if left:
            left -= 1
            return real(*arguments, **options)
        if name == "save_file":
            arguments[1].write_bytes(b"half a file")
        elif name == "write_bytes":
            real(arguments[0], arguments[1][: len(arguments[1]) // 2], **options)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dies)
        with pytest.raises(Killed):
            save_checkpoint(tmp_path, model, optimizers, Progress(step=9), {}, drawn_from())
    found = load_checkpoint(tmp_path, model, optimizers)[0].step
    assert found in (saves_before, 9)
    save_checkpoint(
        tmp_path, model, optimizers, Progress(step=10), {}, drawn_from()
    )  # and it goes on from there
    assert load_checkpoint(tmp_path, model, optimizers)[0].step == 10


def test_no_state_until_the_first_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not has_checkpoint(tmp_path)
    model, optimizers = prepare("lora", "adamw")

    def dies(*arguments: Any, **options: Any) -> None:
        raise Killed

    monkeypatch.setattr(safetensors.torch, "save_file", dies)
    with pytest.raises(Killed):
        save_checkpoint(tmp_path, model, optimizers, Progress(), {}, drawn_from())
    assert not has_checkpoint(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "gone", "json", "pointer"])
def test_a_damaged_state_is_refused(tmp_path: Path, damage: str) -> None:
    model, optimizers = prepare("lora", "adamw")
    save_checkpoint(tmp_path, model, optimizers, Progress(step=1), {}, drawn_from())
    tensors, plain = tmp_path / "a" / "state.safetensors", tmp_path / "a" / "state.json"
    if damage == "cut":
        tensors.write_bytes(tensors.read_bytes()[:-7])
    elif damage == "gone":
        tensors.unlink()
    elif damage == "json":
        plain.write_text(json.dumps(json.loads(plain.read_text()))[:-2], encoding="utf-8")
    else:
        (tmp_path / "latest").write_text("c", encoding="utf-8")
    with pytest.raises(CheckpointError, match="unreadable checkpoint"):
        load_checkpoint(tmp_path, model, optimizers)


@pytest.mark.parametrize(("method", "rank"), [("lora", 3), ("full", 2)])
def test_the_state_of_another_method_is_refused(tmp_path: Path, method: str, rank: int) -> None:
    model, optimizers = prepare("lora", "adamw")
    save_checkpoint(tmp_path, model, optimizers, Progress(step=1), {}, drawn_from())
    with pytest.raises(CheckpointError, match="does not fit this run"):
        load_checkpoint(tmp_path, *prepare(method, "adamw", rank))
