"""Save and restore the resume state: everything that determines the next steps, bit for bit.

It is written atomically and without pickle.

checkpoint/latest   the name of the complete state, "a" or "b": one is written while the other is kept
checkpoint/a/       state.safetensors  weights.*, optimizer.*, generator, cuda_generator, and generator.1 ...
                                       of further processes
                    state.json         progress, loss scaler, and the plain numbers of the optimizers
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from explora.core.files import remove_folder, write_atomically, write_tensors
from explora.core.machine.facts import peak_memory_bytes
from explora.core.model.gpt2 import GPT2
from explora.core.training.adamw import Optimizer
from explora.errors import CheckpointError


@dataclass(kw_only=True)
class Progress:
    """Progress of a run.

    batch: batches done in this epoch; tokens, seconds: totals across interruptions; best_step: step of the
    best dev score, 0 if there is none; evaluated: last step with a dev score; unimproved: evaluations since
    the best; peak_memory_bytes: maximum of the leading process, across interruptions; processor_seconds: of
    all its threads while it trained and evaluated, across interruptions.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_step: int = 0
    best_score: float | None = None
    evaluated: int = 0
    unimproved: int = 0
    peak_memory_bytes: int = 0
    processor_seconds: float = 0.0


def trained_tensors(model: GPT2) -> dict[str, Tensor]:
    """Return the trained parameters by name: those that require gradients."""
    return {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}


def save_checkpoint(
    folder: Path,
    model: GPT2,
    optimizers: Sequence[Optimizer],
    progress: Progress,
    scaler: Mapping[str, Any],
    generators: Sequence[Mapping[str, Tensor]],
) -> None:
    """Write a new state, point `latest` at it, and only then remove the old one.

    Updates the peak memory in `progress`. `generators` are the `generator_states` of each process.
    """
    tensors = {f"weights.{name}": value for name, value in trained_tensors(model).items()}
    for rank, states in enumerate(generators):
        tensors |= {_of_process(key, rank): value for key, value in states.items()}
    numbers = []
    for number, optimizer in enumerate(optimizers):
        found, plain = _split_state(optimizer)
        tensors |= {f"optimizer.{number}.{key}": value for key, value in found.items()}
        numbers.append(plain)
    before = _latest(folder)
    name = "b" if before == "a" else "a"
    target = folder / name
    remove_folder(target)
    write_tensors(target / "state.safetensors", {key: value.contiguous() for key, value in tensors.items()})
    progress.peak_memory_bytes = max(progress.peak_memory_bytes, peak_memory_bytes())
    state = {"progress": asdict(progress), "scaler": dict(scaler), "optimizers": numbers}
    write_atomically(target / "state.json", json.dumps(state))
    write_atomically(folder / "latest", name)
    if before:
        remove_folder(folder / before)


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """Return the states of the random number generators that a training on `device` uses."""
    states = {"generator": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda_generator"] = torch.cuda.get_rng_state(device)
    return states


def _of_process(key: str, rank: int) -> str:
    return f"{key}.{rank}" if rank else key


def _split_state(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """Return the tensors of the optimizer state, as "PARAMETER.NAME", and its other values by parameter."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for parameter, values in optimizer.state_dict()["state"].items():
        is_tensor = {key: isinstance(value, Tensor) for key, value in values.items()}
        tensors |= {f"{parameter}.{key}": value for key, value in values.items() if is_tensor[key]}
        numbers[str(parameter)] = {key: value for key, value in values.items() if not is_tensor[key]}
    return tensors, numbers


def _latest(folder: Path) -> str:
    pointer = folder / "latest"
    return pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else ""


def load_checkpoint(
    folder: Path, model: GPT2, optimizers: Sequence[Optimizer], rank: int = 0
) -> tuple[Progress, dict[str, Any]]:
    """Restore the newest state into model, optimizers and random number generators.

    A process `rank` that did not exist when the state was saved keeps its own generators. Returns the
    progress and the state of the loss scaler. Raises CheckpointError for a state that is unreadable or of
    other settings.
    """
    tensors, plain = _read(folder / _latest(folder))
    stored = {
        key.removeprefix("weights."): value for key, value in tensors.items() if key.startswith("weights.")
    }
    own = trained_tensors(model)
    if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in stored.items()}:
        raise CheckpointError(
            f"{folder / _latest(folder)} does not fit this run: it trains other tensors",
            "resume with the settings that the run was started with, or use --overwrite",
        )
    with torch.no_grad():
        for key, value in own.items():
            value.copy_(stored[key])
    for number, optimizer in enumerate(optimizers):
        _restore_optimizer(optimizer, number, tensors, plain["optimizers"][number])
    generator, on_gpu = (tensors.get(_of_process(key, rank)) for key in ("generator", "cuda_generator"))
    if generator is not None:
        torch.set_rng_state(generator)
    if on_gpu is not None and model.device.type == "cuda":
        torch.cuda.set_rng_state(on_gpu, model.device)
    return Progress(**plain["progress"]), plain.get("scaler", {})


def _read(state: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        tensors = load_file(state / "state.safetensors")
        return tensors, json.loads((state / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"{state}: unreadable checkpoint: {error}", "start again with --overwrite"
        ) from None


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
    """Return whether the folder has a complete state to resume from."""
    return (folder / "latest").is_file()


def saved_step(folder: Path) -> int:
    """Return the step of the complete state in a folder, 0 if there is no readable state."""
    if not has_checkpoint(folder):
        return 0
    try:
        state = json.loads((folder / _latest(folder) / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0
    return int(state["progress"]["step"])


def discard_checkpoint(folder: Path) -> None:
    """Remove the resume state and the cached features of a finished run."""
    remove_folder(folder)
