"""Settings for glibc's handling of freed memory; they have no effect with other C libraries."""

from __future__ import annotations

import contextlib
import ctypes

# For a training process, read when it starts. Aligned tensors leave small free pieces, which glibc by default
# keeps in separate lists, so that the space of a freed tensor does not fit the next one of the same size. If
# glibc joins them at once, the peak is a seventh lower, at no cost in time (docs/LOG.md).
TUNABLES = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0"}

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed_memory() -> None:
    """Make glibc reuse freed memory, instead of returning it to the kernel in every step.

    A training step frees and requests the same large tensors again. By default, each gets new pages that the
    kernel must fill with zeros: 79,000 page faults per step instead of 900 (docs/LOG.md).
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(M_TRIM_THRESHOLD, 1 << 30)


def return_freed_memory() -> None:
    """Return free memory to the kernel once, after work that frees memory which later work cannot reuse."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
