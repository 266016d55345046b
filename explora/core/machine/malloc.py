"""What glibc does with memory that tensors give back; other C libraries are left alone."""

from __future__ import annotations

import contextlib
import ctypes

# For a process that trains, read when it starts. Aligning a tensor leaves crumbs beside it, which glibc by
# default puts aside, so that the room of a freed tensor never fits the next of its size. Joined again at once
# they save a seventh of the peak and cost no time (docs/LOG.md).
TUNABLES = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0"}

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed_memory() -> None:
    """Let glibc reuse what tensors give back, instead of returning it to the kernel every step.

    A training step frees and asks again for the same large tensors; by default each comes as fresh pages
    that the kernel has to zero: 79,000 page faults a step against 900 (docs/LOG.md).
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(M_TRIM_THRESHOLD, 1 << 30)


def return_freed_memory() -> None:
    """Return to the kernel what is free now, for once: after work whose pieces nothing else will fit."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
