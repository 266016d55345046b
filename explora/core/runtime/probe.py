"""Measure what is fastest on this CPU: bf16 or fp32, the number of threads, the attention for each length.

This takes two seconds, once per machine and torch version; the results are stored in the cache. They are also
recorded with each run, so that a repeated or resumed run uses the same values.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from explora.core.cache import cache_folder
from explora.core.files import write_atomically
from explora.core.machine.facts import describe_machine
from explora.core.model.attention import PLAIN_UP_TO, attend, causal_attention
from explora.errors import WriteError

PRODUCT = (256, 768, 3072)  # rows, inputs, outputs: a small batch on GPT-2
# Without bf16 units, PRODUCT takes seconds in bf16; this one takes milliseconds, enough for a comparison.
SMALL_PRODUCT = (64, 256, 512)
# A precision that takes at least this multiple of fp32's time is emulated. Measured: 0.5 with AVX512-BF16,
# 2.6 with AVX-512 alone, 80 with AVX2; fp16 takes 80 on all three.
EMULATED_FROM = 2.0
HEADS, HEAD_SIZE, TOKENS = 12, 64, 512  # of the measured attention: GPT-2's, in rows of each length
LENGTHS = (64, 128, 256, 512, 1024)
# Required gain of a choice other than the default, because other programs disturb a measurement.
BF16_GAIN, THREADS_GAIN, KERNEL_GAIN = 1.25, 1.1, 1.25


@dataclass(frozen=True, kw_only=True)
class Probes:
    """The fastest choices on this machine; `plain_*`: the longest row, in tokens, for plain attention."""

    amp: str
    threads: int
    plain_bf16: int
    plain_fp32: int

    def plain_attention(self, amp: str) -> int:
        """Return the longest row for plain attention in a precision."""
        return self.plain_fp32 if amp == "off" else self.plain_bf16


def probe_once() -> Probes:
    """Return the cached choices for this machine, or measure and cache them."""
    file = cache_folder() / "probes" / f"{_machine_digest()}.json"
    try:
        return Probes(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # there is no file, or one of another version
        found = probe()
    with suppress(WriteError):  # without a cache, the next run measures again
        write_atomically(file, json.dumps(dataclasses.asdict(found)))
    return found


def _machine_digest() -> str:
    """Return a digest of the facts that the results depend on.

    Processors of the same name may differ in their instructions.
    """
    facts = describe_machine() | {
        "openmp": os.environ.get("OMP_NUM_THREADS", ""),
        "limit": PLAIN_UP_TO,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "onednn": os.environ.get("ONEDNN_MAX_CPU_ISA", ""),
    }
    return hashlib.sha256(repr(sorted(facts.items())).encode()).hexdigest()[:16]


def probe() -> Probes:
    """Measure all choices; torch's number of threads is the same afterwards."""
    before = torch.get_num_threads()
    threads = faster_threads()
    torch.set_num_threads(threads)
    emulated = is_emulated(torch.bfloat16)
    found = Probes(
        amp="off" if emulated else faster_precision(),
        threads=threads,
        plain_bf16=0 if emulated else plain_limit(torch.bfloat16),  # emulated products are always slower
        plain_fp32=plain_limit(torch.float32),
    )
    torch.set_num_threads(before)
    return found


def faster_precision() -> str:
    """Return "bf16" if a matrix product is measurably faster in it, else "off"."""
    if is_emulated(torch.bfloat16):
        return "off"
    gains = matmul_seconds(torch.float32) > BF16_GAIN * matmul_seconds(torch.bfloat16)
    return "bf16" if gains else "off"


def faster_threads() -> int:
    """Return torch's number of threads, or one per core or per processor if that is faster.

    A value in OMP_NUM_THREADS takes precedence.
    """
    default = torch.get_num_threads()
    if os.environ.get("OMP_NUM_THREADS"):
        return default
    machine = describe_machine()
    best, seconds = default, _seconds_with(default) / THREADS_GAIN
    for count in sorted({int(machine["cores"]), int(machine["processors"])} - {default}):
        if (found := _seconds_with(count)) < seconds:
            best, seconds = count, found
    torch.set_num_threads(default)
    return best


def _seconds_with(threads: int) -> float:
    torch.set_num_threads(threads)
    return matmul_seconds(torch.float32)


def is_emulated(dtype: torch.dtype) -> bool:
    """Return whether this CPU computes products in `dtype` through fp32, and therefore more slowly."""
    return slowdown(dtype) >= EMULATED_FROM


def slowdown(dtype: torch.dtype) -> float:
    """Return the time of a small matrix product in `dtype`, divided by that in fp32, on one thread.

    Two threads would wait for each other longer than they compute, and hide the difference.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    times = matmul_seconds(dtype, SMALL_PRODUCT) / matmul_seconds(torch.float32, SMALL_PRODUCT)
    torch.set_num_threads(before)
    return times


def matmul_seconds(dtype: torch.dtype, size: tuple[int, int, int] = PRODUCT) -> float:
    """Return the best time of a product of the given rows, inputs and outputs, in seconds."""
    rows, fan_in, fan_out = size
    left, right = torch.ones(rows, fan_in, dtype=dtype), torch.ones(fan_in, fan_out, dtype=dtype)
    return best_seconds(lambda: torch.mm(left, right), repeats=5)


def plain_limit(dtype: torch.dtype) -> int:
    """Return the largest of LENGTHS up to which plain attention beats the fused kernel, forward and backward.

    Up to the default limit, the fused kernel must be clearly faster to be chosen; above it, plain attention
    must.
    """
    limit = 0
    for length in LENGTHS:
        size = (max(1, TOKENS // length), length, 3 * HEADS * HEAD_SIZE)
        projected = torch.ones(size, dtype=dtype, requires_grad=True)
        plain = best_seconds(lambda given=projected: _there_and_back(_plain, given))  # type: ignore[misc]
        fused = best_seconds(lambda given=projected: _there_and_back(_fused, given))  # type: ignore[misc]
        needed = 1 / KERNEL_GAIN if length <= PLAIN_UP_TO[dtype] else KERNEL_GAIN
        if fused < needed * plain:
            return limit
        limit = length
    return limit


def _there_and_back(attention: Callable[[Tensor], Tensor], projected: Tensor) -> None:
    attended = attention(projected)
    attended.backward(torch.ones_like(attended))  # type: ignore[no-untyped-call]
    projected.grad = None


def _plain(projected: Tensor) -> Tensor:
    return causal_attention(projected, HEADS)


def _fused(projected: Tensor) -> Tensor:
    parts = projected.view(*projected.shape[:2], 3, HEADS, HEAD_SIZE).permute(2, 0, 3, 1, 4)
    query, key, value = parts
    return (
        attend(query, key, value, mask=None, dropout=0.0, plain_up_to=0)
        .transpose(1, 2)
        .reshape(*projected.shape[:2], -1)
    )


def best_seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Return the shortest time of `work` in seconds, after one call that is not timed."""
    work()
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best
