"""Set the environment variables that torch reads when it is loaded, by a fixed rule for each command.

They decide three things. How threads wait for each other: GNU's OpenMP lets them spin, which with one busy
neighbour on two cores costs two thirds of the speed of training. How many compiled products are kept: rows
differ in length, and 1,024 shapes of each product take up to 0.7 GB (docs/LOG.md). How glibc reuses freed
memory. A variable that the user has set is left as it is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from explora.core.machine.malloc import TUNABLES

SPINS = "1000"  # some microseconds: as long as the next product is away while training
KEPT_PRODUCTS = "64"


def restart_for_training(words: Sequence[str]) -> None:
    """Restart the process of `explora train`: glibc reads its variables only when a process starts."""
    wanted = words[:1] == ["train"] and not {"-h", "--help"} & set(words)
    if not wanted or sys.platform != "linux" or TUNABLES.keys() & os.environ.keys():
        return
    os.environ.update(TUNABLES)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def prepare_training() -> None:
    """Let threads spin for a moment, then sleep."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    _bound_caches()
    _warn_if_cache_is_temporary()


def prepare_answers() -> None:
    """Let threads sleep at once: the work is many tiny products."""
    if "GOMP_SPINCOUNT" not in os.environ:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _bound_caches()
    _warn_if_cache_is_temporary()


def _warn_if_cache_is_temporary() -> None:
    """Warn that the cache will be lost after this command, and how to keep it."""
    from explora import console  # not when a process only starts itself once more
    from explora.core.cache import VARIABLE, why_temporary

    if reason := why_temporary():
        console.warn(
            f"the cache is in a temporary folder, because {reason}; "
            f"to keep it, set {VARIABLE} to a folder that you may write to"
        )


def _bound_caches() -> None:
    """Bound oneDNN's own cache, and torch's in front of it."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", KEPT_PRODUCTS)
    os.environ.setdefault("LRU_CACHE_CAPACITY", KEPT_PRODUCTS)
