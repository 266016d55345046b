"""What the machine decides, once per run: device, precision, threads, seed."""

from __future__ import annotations

import dataclasses
import os
import random
import time
from pathlib import Path

import torch

from explora.core.allocating import keep_freed_memory
from explora.core.config import RuntimeConfig
from explora.errors import UsageError

DTYPES = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PROBE_SHAPE = (256, 768, 3072)  # rows, in, out of the product that decides for or against bf16


def cache_folder() -> Path:
    """Return where explora keeps what it can make again: $XDG_CACHE_HOME/explora or ~/.cache/explora."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "explora"


def resolve_runtime(config: RuntimeConfig) -> RuntimeConfig:
    """Replace `auto` and None by what this machine gives; nothing is probed that is already decided.

    Raises UsageError for a device that is not there.
    """
    keep_freed_memory()
    device = _resolve_device(config.device)
    threads = config.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    amp = _faster_precision(device) if config.amp == "auto" else config.amp
    return dataclasses.replace(config, device=str(device), amp=amp, threads=threads)


def _resolve_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"no device {name!r}", "devices: auto, cpu, cuda, cuda:1, mps") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError("this torch sees no CUDA device", "leave --device out, or use --device cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("this torch sees no MPS device", "leave --device out, or use --device cpu")
    return device


def _faster_precision(device: torch.device) -> str:
    """Return bf16 only where a matrix product measurably gains from it, else off."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "off"
    if device.type != "cpu":
        return "off"
    return "bf16" if matmul_seconds(torch.bfloat16) < 0.8 * matmul_seconds(torch.float32) else "off"


def matmul_seconds(dtype: torch.dtype, repeats: int = 5) -> float:
    """Return the best time of a (256, 768) x (768, 3072) product on the CPU, in seconds."""
    rows, fan_in, fan_out = PROBE_SHAPE
    left, right = torch.ones(rows, fan_in, dtype=dtype), torch.ones(fan_in, fan_out, dtype=dtype)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(left, right)
        best = min(best, time.perf_counter() - start)
    return best


def set_seed(seed: int) -> None:
    """Seed every generator that a run draws from."""
    random.seed(seed)
    torch.manual_seed(seed)
