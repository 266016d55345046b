"""The first values of what is trained are drawn on the CPU, so that they are the same on every device."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from explora.core.methods.lora_layers import LoRALinear
from explora.core.model.gpt2 import GPT2
from explora.core.runs.assemble import assemble_for_training
from tests.tiny_models import PAIRS, tiny_run


def drawn_on(device: str, base: Path, data: Path, task: str, method: str) -> torch.Tensor:
    """Return the state of the CPU's generator after a run was assembled on a device."""
    run = tiny_run(base, data, task, method=method)
    assemble_for_training(dataclasses.replace(run, runtime=dataclasses.replace(run.runtime, device=device)))
    return torch.get_rng_state()


@pytest.fixture(autouse=True)
def unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GPT2, "pack", lambda model, **_: None)  # packed weights exist on a CPU alone


@pytest.mark.parametrize(("task", "method"), PAIRS)
def test_another_device_draws_as_the_cpu_does(
    tiny_base: Path, tiny_data: Path, task: str, method: str
) -> None:
    expected = drawn_on("cpu", tiny_base, tiny_data, task, method)
    assert torch.equal(drawn_on("meta", tiny_base, tiny_data, task, method), expected)


def test_values_drawn_on_the_device_are_noticed(
    tiny_base: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = drawn_on("cpu", tiny_base, tiny_data, "text", "lora")
    build = LoRALinear.__init__

    def build_on_the_device(layer: LoRALinear, *given: object, **named: object) -> None:
        state = torch.get_rng_state()
        build(layer, *given, **named)  # type: ignore[arg-type]
        torch.set_rng_state(state)  # a device draws from a generator of its own

    monkeypatch.setattr(LoRALinear, "__init__", build_on_the_device)
    assert not torch.equal(drawn_on("meta", tiny_base, tiny_data, "text", "lora"), expected)
