"""What the machine decides, once per run: device, precision, threads, seed."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import random
import time
from pathlib import Path

import torch

from explora.core.config import RuntimeConfig
from explora.errors import UsageError

DTYPES = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
PROBE_SHAPE = (256, 768, 3072)  # rows, in, out of the product that decides for or against bf16


def cache_folder() -> Path:
    """Return where explora keeps what it can make again: $XDG_CACHE_HOME/explora or ~/.cache/explora."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "explora"


def keep_freed_memory() -> None:
    """Let glibc reuse what tensors give back, instead of returning it to the kernel every step.

    A training step frees and asks again for the same large tensors; by default each comes as fresh pages
    that the kernel has to zero: 79,000 page faults a step against 900 (benchmarks/README.md). Other
    C libraries are left alone.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(M_TRIM_THRESHOLD, 1 << 30)


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
