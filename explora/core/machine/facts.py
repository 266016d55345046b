"""Facts about the machine and this process, without torch: memory in use, available memory, a description."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

Machine = dict[str, str | int]

PROCESS = Path("/proc/self")
CGROUPS = Path("/sys/fs/cgroup")


def peak_memory_bytes() -> int:
    """Return the peak resident size of this process in bytes, so far or since `reset_peak_memory`.

    On Linux it is VmHWM. Unlike ru_maxrss, it restarts with exec, so a child does not inherit its parent's
    peak.
    """
    status = PROCESS / "status"
    if status.exists():
        found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resident_memory_bytes() -> int:
    """Return the current resident size of this process in bytes."""
    return int(psutil.Process().memory_info().rss)


def reset_peak_memory() -> bool:
    """Reset the peak to the current size; return False if the system cannot do this (only Linux can)."""
    try:
        (PROCESS / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def available_memory_bytes() -> int:
    """Return how many bytes this process may still use, limited by the system and its cgroups."""
    free = int(psutil.virtual_memory().available)
    return max(0, min([free, *(limit.size - limit.used for limit in _cgroup_limits())]))


def describe_machine() -> Machine:
    """Return processor, cores, logical processors, memory in bytes, platform, Python and torch.

    Processors and memory are those that this process may use. Versions of packages come from their metadata.
    """
    total = min([int(psutil.virtual_memory().total), *(limit.size for limit in _cgroup_limits())])
    processors = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return {
        "processor": _processor(),
        "cores": min(psutil.cpu_count(logical=False) or processors, processors),
        "processors": processors,
        "memory_bytes": total,
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        named = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        if named:
            return named
    return platform.processor() or platform.machine()


class _Limit(NamedTuple):
    """A cgroup's memory limit and its use in bytes, without cached files, which can be dropped."""

    size: int
    used: int


def _cgroup_limits() -> Iterator[_Limit]:
    """Yield the limits of this process's memory cgroup and its ancestors, for versions 1 and 2."""
    membership = PROCESS / "cgroup"
    if not membership.exists():
        return
    for line in membership.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _limits_upward(CGROUPS, path, ("memory.max", "memory.current", "inactive_file"))
        elif "memory" in controllers.split(","):
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            yield from _limits_upward(CGROUPS / "memory", path, files)


def _limits_upward(root: Path, path: str, files: tuple[str, str, str]) -> Iterator[_Limit]:
    """Yield the limits of a group and its ancestors.

    A container may see its own group as the root, so folders that do not exist are skipped.
    """
    folder = root / path.lstrip("/")
    for group in (folder, *folder.parents):
        limit = _read_limit(group, *files)
        if limit:
            yield limit
        if group == root:
            return


def _read_limit(group: Path, size: str, used: str, cached: str) -> _Limit | None:
    try:
        limit, usage = (group / size).read_text().strip(), int((group / used).read_text())
        found = re.search(rf"^{cached} (\d+)$", (group / "memory.stat").read_text(), re.MULTILINE)
    except OSError:
        return None
    if limit == "max":
        return None
    return _Limit(int(limit), usage - (int(found[1]) if found else 0))
