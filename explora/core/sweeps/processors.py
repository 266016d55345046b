"""The processors of each job of a sweep. Importing this module does not load torch."""

from __future__ import annotations

from itertools import chain, groupby, pairwise
from pathlib import Path

import psutil

from explora.core.machine.facts import describe_machine
from explora.errors import UsageError

TOPOLOGY = Path("/sys/devices/system/cpu")
CAN_BIND = hasattr(psutil.Process, "cpu_affinity")  # not on macOS


def divide_processors(jobs: int) -> list[tuple[int, ...]]:
    """Return disjoint sets of processors of about equal size, one per job; of whole cores if possible.

    The sets are empty for a single job, and on a system that cannot bind a process to processors. Raises
    UsageError for more jobs than processors.
    """
    cores = _cores()
    parts = cores if jobs <= len(cores) else [(processor,) for core in cores for processor in core]
    if jobs > len(parts):
        raise UsageError(
            f"--jobs {jobs}: this process may use {len(parts)} processors", f"--jobs {len(parts)}"
        )
    if jobs == 1 or not CAN_BIND:
        return [()] * jobs
    bounds = [len(parts) * job // jobs for job in range(jobs + 1)]
    return [tuple(chain.from_iterable(parts[first:last])) for first, last in pairwise(bounds)]


def threads_of_job(jobs: int) -> int:
    """Return the number of threads of a cell that trains beside `jobs` - 1 others: one per core."""
    return max(1, len(_cores()) // jobs)


def bind_to(processors: tuple[int, ...]) -> None:
    """Bind this process to processors. Call it before threads start, because they inherit the binding."""
    if processors and CAN_BIND:
        psutil.Process().cpu_affinity(list(processors))


def _cores() -> list[tuple[int, ...]]:
    """Return the processors of each core that this process may use."""
    if not CAN_BIND:
        return [(number,) for number in range(int(describe_machine()["cores"]))]
    allowed = sorted(psutil.Process().cpu_affinity(), key=_core_of)
    return [tuple(core) for _, core in groupby(allowed, key=_core_of)]


def _core_of(processor: int) -> tuple[int, int]:
    """Return package and core of a logical processor; if they are unknown, each processor is its own core."""
    folder = TOPOLOGY / f"cpu{processor}" / "topology"
    try:
        return int((folder / "physical_package_id").read_text()), int((folder / "core_id").read_text())
    except (OSError, ValueError):
        return 0, processor
