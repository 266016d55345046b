"""Which processors each job of a sweep computes on. Light."""

from __future__ import annotations

from itertools import groupby, pairwise
from pathlib import Path

import psutil

from explora.core.machine.facts import describe_machine
from explora.errors import UsageError

TOPOLOGY = Path("/sys/devices/system/cpu")


def divide_processors(jobs: int) -> list[tuple[int, ...]]:
    """Return disjoint sets of processors, one for each job, of whole cores and about equal.

    The sets are empty where there is one job, and where the system cannot bind a process to processors.
    Raises UsageError for more jobs than cores.
    """
    cores = int(describe_machine()["cores"])
    if jobs > cores:
        raise UsageError(f"--jobs {jobs}: this process may use {cores} cores", f"--jobs {cores}")
    if jobs == 1 or not hasattr(psutil.Process, "cpu_affinity"):
        return [()] * jobs
    allowed = sorted(psutil.Process().cpu_affinity(), key=_core_of)
    by_core = [tuple(group) for _, group in groupby(allowed, key=_core_of)]
    bounds = [len(by_core) * job // jobs for job in range(jobs + 1)]
    return [
        tuple(number for core in by_core[first:last] for number in core) for first, last in pairwise(bounds)
    ]


def threads_of_job(jobs: int) -> int:
    """Return how many threads a cell gets beside `jobs` - 1 others: one a core."""
    return max(1, int(describe_machine()["cores"]) // jobs)


def bind_to(processors: tuple[int, ...]) -> None:
    """Bind this process to processors. Call it before threads start: they inherit it."""
    if processors:
        psutil.Process().cpu_affinity(list(processors))


def _core_of(processor: int) -> tuple[int, int]:
    """Return package and core of a logical processor; without a topology, each is a core of its own."""
    folder = TOPOLOGY / f"cpu{processor}" / "topology"
    try:
        return int((folder / "physical_package_id").read_text()), int((folder / "core_id").read_text())
    except (OSError, ValueError):
        return 0, processor
