"""Resolve the settings that depend on the machine, once per run: device, precision, threads, seed."""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from explora.core.config.concerns import RuntimeConfig
from explora.core.config.run_config import TrainRun
from explora.core.machine.malloc import keep_freed_memory
from explora.core.runtime.probe import faster_precision, probe_once
from explora.errors import UsageError

DTYPES = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_runtime(config: RuntimeConfig) -> RuntimeConfig:
    """Replace `auto` and None by the fastest choices for training on this machine; keep other values.

    Raises UsageError for a device that is not available.
    """
    keep_freed_memory()
    device = _resolve_device(config.device)
    asks = config.amp == "auto" or config.threads is None or config.plain_attention is None
    probes = probe_once() if asks and device.type == "cpu" else None
    threads = config.threads or (probes.threads if probes else torch.get_num_threads())
    torch.set_num_threads(threads)
    amp = config.amp if config.amp != "auto" else (probes.amp if probes else _accelerator_precision(device))
    plain = config.plain_attention
    if plain is None and probes is not None:
        plain = probes.plain_attention(amp)
    return dataclasses.replace(
        config, device=str(device), amp=amp, threads=threads, plain_attention=plain or 0
    )


def with_resolved_runtime(run: TrainRun) -> TrainRun:
    """Return a run whose runtime is resolved for training on this machine."""
    return dataclasses.replace(run, runtime=resolve_runtime(run.runtime))


def resolve_for_answers(config: RuntimeConfig) -> RuntimeConfig:
    """Replace `auto` and None for eval and generate: torch's number of threads, a measured precision."""
    keep_freed_memory()
    device = _resolve_device(config.device)
    threads = config.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    amp = config.amp
    if amp == "auto":
        amp = faster_precision() if device.type == "cpu" else _accelerator_precision(device)
    return dataclasses.replace(config, device=str(device), amp=amp, threads=threads)


def compute_deterministically() -> None:
    """Choose kernels on a GPU that give the same bits in every run. Call it before the first product.

    If an operation has no such kernel, torch warns; see also `require_determinism`. cuBLAS needs workspaces
    of a fixed size.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # torch would fill new tensors, which costs time and only helps to find bugs.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@contextmanager
def require_determinism(device: torch.device) -> Iterator[None]:
    """Raise RuntimeError inside this context if an operation on a GPU has no deterministic kernel.

    Only then does attention choose a deterministic backward pass: where torch may merely warn, it warns.
    """
    if device.type != "cuda":
        yield
        return
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(True, warn_only=True)


def _resolve_device(name: str) -> torch.device:
    device = _find_device(name)
    if device.type == "cuda":
        compute_deterministically()
    return device


def _find_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(
            f"--device: no device is called {name!r}", "devices: auto, cpu, cuda, cuda:1, mps"
        ) from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError("torch finds no CUDA device", "leave --device out, or use --device cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("torch finds no MPS device", "leave --device out, or use --device cpu")
    return device


def _accelerator_precision(device: torch.device) -> str:
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "off"


def set_seed(seed: int) -> None:
    """Seed every random number generator that a run uses."""
    random.seed(seed)
    torch.manual_seed(seed)
