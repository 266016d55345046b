"""Memory as this process and its container see it; the cgroup files are real files in a temporary folder."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from explora.core.machine import facts as measure

MB = 1_000_000
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def run_python(code: str) -> list[int]:
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [int(word) for word in printed.stdout.split()]


def test_the_peak_stays_after_memory_is_given_back_and_a_reset_forgets_it() -> None:
    before, at_peak, after, was_reset, since_reset = run_python(
        "from explora.core.machine.facts import peak_memory_bytes as peak, reset_peak_memory\n"
        "print(peak())\n"
        "block = bytearray(300_000_000); print(peak())\n"
        "del block; print(peak())\n"
        "print(int(reset_peak_memory())); print(peak())"
    )
    assert at_peak - before >= 299 * MB
    assert after == pytest.approx(at_peak, abs=MB)  # the kernel sums its counters a little late
    if was_reset:
        assert since_reset < at_peak - 250 * MB


@on_linux
def test_a_child_does_not_inherit_the_peak_of_its_parent() -> None:
    """ru_maxrss survives exec; that it does here shows that the test can tell the two apart."""
    child = (
        "import resource; from explora.core.machine.facts import peak_memory_bytes\n"
        "print(peak_memory_bytes(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
    )
    ours, maxrss = run_python(
        "import os, sys; block = bytearray(400_000_000)\n"
        f"os.execv(sys.executable, [sys.executable, '-c', {child!r}])"
    )
    assert ours < 200 * MB
    assert maxrss >= 400 * MB


def test_importing_it_imports_no_torch() -> None:
    assert run_python(
        "import sys; from explora.core.machine.facts import describe_machine as d; d(); "
        "print(int('torch' in sys.modules))"
    ) == [0]


def test_the_machine_is_described_in_full() -> None:
    machine = measure.describe_machine()
    assert list(machine) == [
        "processor",
        "cores",
        "processors",
        "memory_bytes",
        "platform",
        "python",
        "torch",
    ]
    assert all(machine.values())
    assert 1 <= int(machine["cores"]) <= int(machine["processors"]) <= (os.cpu_count() or 1)


@pytest.fixture
def no_cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A process folder and a cgroup tree of our own, at first empty."""
    process, tree = tmp_path / "proc", tmp_path / "cgroup"
    process.mkdir()
    tree.mkdir()
    monkeypatch.setattr(measure, "PROCESS", process)
    monkeypatch.setattr(measure, "CGROUPS", tree)
    return tmp_path


def write_v2(group: Path, limit: str, used: int, inactive: int) -> None:
    group.mkdir(parents=True, exist_ok=True)
    (group / "memory.max").write_text(f"{limit}\n")
    (group / "memory.current").write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"anon 5\ninactive_file {inactive}\nactive_file 7\n")


def test_without_cgroups_the_systems_memory_counts(no_cgroups: Path) -> None:
    available, total = measure.available_memory_bytes(), psutil.virtual_memory().total
    assert 0 < available <= total
    assert measure.describe_machine()["memory_bytes"] == total


def test_a_limit_of_cgroup_v2_counts_and_its_cached_files_do_not(no_cgroups: Path) -> None:
    (no_cgroups / "proc" / "cgroup").write_text("0::/job/step\n")
    write_v2(no_cgroups / "cgroup/job/step", "max", 30 * MB, 0)
    write_v2(no_cgroups / "cgroup/job", str(50 * MB), 30 * MB, 10 * MB)
    assert measure.available_memory_bytes() == 30 * MB
    assert measure.describe_machine()["memory_bytes"] == 50 * MB


def test_a_container_that_sees_itself_as_the_root_has_its_limit(no_cgroups: Path) -> None:
    (no_cgroups / "proc" / "cgroup").write_text("0::/docker/0123456789\n")
    write_v2(no_cgroups / "cgroup", str(40 * MB), 15 * MB, 0)
    assert measure.available_memory_bytes() == 25 * MB


def test_a_limit_of_cgroup_v1_counts(no_cgroups: Path) -> None:
    (no_cgroups / "proc" / "cgroup").write_text("5:cpu,cpuacct:/a\n4:memory:/a\n0::/\n")
    group = no_cgroups / "cgroup/memory/a"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text(f"{60 * MB}\n")
    (group / "memory.usage_in_bytes").write_text(f"{50 * MB}\n")
    (group / "memory.stat").write_text(f"inactive_file 1\ntotal_inactive_file {5 * MB}\n")
    assert measure.available_memory_bytes() == 15 * MB


def test_more_used_than_allowed_leaves_nothing(no_cgroups: Path) -> None:
    (no_cgroups / "proc" / "cgroup").write_text("0::/\n")
    write_v2(no_cgroups / "cgroup", str(10 * MB), 11 * MB, 0)
    assert measure.available_memory_bytes() == 0


def test_where_the_kernel_keeps_no_peak_the_fallback_is_of_its_size(no_cgroups: Path) -> None:
    present = psutil.Process().memory_info().rss
    assert present // 2 < measure.peak_memory_bytes() < psutil.virtual_memory().total


def test_a_reset_that_is_not_possible_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(measure, "PROCESS", tmp_path / "nowhere")
    assert measure.reset_peak_memory() is False
