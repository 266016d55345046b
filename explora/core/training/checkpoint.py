"""Resume state: everything that decides the bits of the steps to come, written atomically, no pickle.

checkpoint/latest           the name of the newest complete state
checkpoint/step-000120/     state.safetensors  weights.*, optimizer.*, generator, cuda generator
                            state.json         counters and the optimizer's plain numbers
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from explora.core.files import write_atomically
from explora.core.model.gpt2 import GPT2
from explora.core.training.adamw import Optimizer
from explora.errors import AdapterError


@dataclass(kw_only=True)
class Progress:
    """Where a run stands. `seconds` and `tokens` add up over interruptions; `evaluated` is a step."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_step: int = 0
    best_score: float | None = None
    evaluated: int = 0
    unimproved: int = 0


def trained_tensors(model: GPT2) -> dict[str, Tensor]:
    """Return what the method trains, by name: exactly the parameters that require gradients."""
    return {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}


def save_checkpoint(
    folder: Path,
    model: GPT2,
    optimizers: Sequence[Optimizer],
    progress: Progress,
    scaler: Mapping[str, Any],
) -> None:
    """Write the state beside the one before, point `latest` at it, then drop the one before."""
    tensors = {f"weights.{name}": value for name, value in trained_tensors(model).items()}
    plain: dict[str, Any] = {"progress": asdict(progress), "scaler": dict(scaler), "optimizers": []}
    for number, optimizer in enumerate(optimizers):
        state = optimizer.state_dict()
        numbers: dict[str, dict[str, Any]] = {}
        for parameter, values in state["state"].items():
            numbers[str(parameter)] = {}
            for key, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{number}.{parameter}.{key}"] = value
                else:
                    numbers[str(parameter)][key] = value
        plain["optimizers"].append(numbers)
    tensors["generator"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["cuda_generator"] = torch.cuda.get_rng_state()
    before = _latest(folder)
    name = "b" if before == "a" else "a"
    target = folder / name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    save_file({key: value.contiguous() for key, value in tensors.items()}, target / "state.safetensors")
    (target / "state.json").write_text(json.dumps(plain), encoding="utf-8")
    write_atomically(folder / "latest", name)
    if before:
        shutil.rmtree(folder / before, ignore_errors=True)


def _latest(folder: Path) -> str:
    pointer = folder / "latest"
    return pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else ""


def load_checkpoint(
    folder: Path, model: GPT2, optimizers: Sequence[Optimizer]
) -> tuple[Progress, dict[str, Any]]:
    """Put the newest state back into model, optimizers and generators.

    Returns the progress and the state of the loss scaler. Raises AdapterError for a state that does not fit.
    """
    state = folder / _latest(folder)
    try:
        tensors = load_file(state / "state.safetensors")
        plain = json.loads((state / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, SafetensorError) as error:
        raise AdapterError(
            f"{state}: unreadable checkpoint: {error}", "start again with --overwrite"
        ) from None
    own = trained_tensors(model)
    stored = {
        key.removeprefix("weights."): value for key, value in tensors.items() if key.startswith("weights.")
    }
    if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in stored.items()}:
        raise AdapterError(
            f"{state} does not fit this run: other tensors are trained",
            "resume with the settings the run was started with, or use --overwrite",
        )
    with torch.no_grad():
        for key, value in own.items():
            value.copy_(stored[key])
    for number, optimizer in enumerate(optimizers):
        _restore_optimizer(optimizer, number, tensors, plain["optimizers"][number])
    torch.set_rng_state(tensors["generator"])
    if "cuda_generator" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda_generator"])
    return Progress(**plain["progress"]), plain.get("scaler", {})


def _restore_optimizer(
    optimizer: Optimizer,
    number: int,
    tensors: dict[str, Tensor],
    numbers: dict[str, dict[str, Any]],
) -> None:
    state: dict[int, dict[str, Any]] = {int(key): dict(value) for key, value in numbers.items()}
    prefix = f"optimizer.{number}."
    for key, value in tensors.items():
        if key.startswith(prefix):
            parameter, name = key.removeprefix(prefix).split(".", 1)
            state.setdefault(int(parameter), {})[name] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})


def has_checkpoint(folder: Path) -> bool:
    """Tell whether there is a complete state to resume from."""
    return (folder / "latest").is_file()
