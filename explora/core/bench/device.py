"""Measurements of the device: matrix peak, peak memory, and time by phase."""

from __future__ import annotations

import gc
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from explora.core.machine.facts import peak_memory_bytes, resident_memory_bytes
from explora.core.machine.malloc import return_freed_memory

MATRIX = (1024, 1024, 4096)  # rows, in and out of the product that defines the matrix peak
PEAK_SECONDS = 0.4


def matrix_peak(dtype: torch.dtype, device: torch.device) -> float:
    """Return the matrix peak in FLOP/s: the fastest of the large products that fit into 0.4 s."""
    rows, fan_in, fan_out = MATRIX
    left = torch.ones(rows, fan_in, dtype=dtype, device=device)
    right = torch.ones(fan_in, fan_out, dtype=dtype, device=device)
    best, until = float("inf"), time.perf_counter() + PEAK_SECONDS
    while best == float("inf") or time.perf_counter() < until:
        synchronise(device)
        start = time.perf_counter()
        torch.mm(left, right)
        synchronise(device)
        best = min(best, time.perf_counter() - start)
    return 2.0 * rows * fan_in * fan_out / best


def device_peak_bytes(device: torch.device) -> int:
    """Return the peak memory on the device: of this process on a CPU, of its tensors on a GPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return peak_memory_bytes()


def settled_memory_bytes(device: torch.device) -> int:
    """Return the memory in use on the device, in bytes, after freeing unreferenced objects."""
    gc.collect()
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return_freed_memory()
    return resident_memory_bytes()


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has finished its queued kernels; on a CPU, do nothing."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Clock:
    """Seconds by phase. On a GPU, a phase includes its queued kernels; `current` is the innermost phase."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.current = device, ""
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time inside this context as the phase `name`."""
        start, outer = time.perf_counter(), self.current
        self.current = name
        yield
        self.current = outer
        synchronise(self.device)
        self.seconds[name] += time.perf_counter() - start
