"""Cells divided among machines and jobs: disjoint, complete and balanced."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from explora.core.sweeps import processors
from explora.core.sweeps.processors import divide_processors, threads_of_job
from explora.core.sweeps.sharing import Shard, cells_of_shard, longest_first, parse_shard
from explora.errors import UsageError


def shards(work: list[float], count: int) -> list[list[int]]:
    return [cells_of_shard(work, Shard(number=number, count=count)) for number in range(1, count + 1)]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shards_are_disjoint_complete_and_balanced(count: int) -> None:
    draw = random.Random(count)
    work = [draw.choice([1.0, 2.0, 3.0, 50.0]) for _ in range(40)]
    found = shards(work, count)
    assert sorted(place for shard in found for place in shard) == list(range(40))
    totals = [sum(work[place] for place in shard) for shard in found]
    at_least = max(sum(work) / count, max(work))  # no division is better
    assert max(totals) <= 4 / 3 * at_least


def test_equal_cells_are_dealt_out_in_turn() -> None:
    assert shards([1.0] * 5, 2) == [[0, 2, 4], [1, 3]]


def test_more_shards_than_cells_leave_some_empty() -> None:
    assert shards([1.0], 2) == [[0], []]


def test_the_longest_come_first_and_equals_keep_their_order() -> None:
    assert longest_first([1.0, 3.0, 1.0, 3.0]) == [1, 3, 0, 2]


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/2/3", "-1/2"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not NUMBER/COUNT"):
        parse_shard(text)


def test_a_shard_is_read_as_it_is_written() -> None:
    assert str(parse_shard("2/4")) == "2/4"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[dict[int, int]], None]:
    """Pretend that this process may use these processors, given with the number of their core."""

    def pretend(cores: dict[int, int]) -> None:
        for processor, core in cores.items():
            folder = tmp_path / f"cpu{processor}" / "topology"
            folder.mkdir(parents=True)
            (folder / "core_id").write_text(f"{core}\n")
            (folder / "physical_package_id").write_text("0\n")
        monkeypatch.setattr(processors, "TOPOLOGY", tmp_path)
        monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda self: list(cores), raising=False)
        monkeypatch.setattr(processors, "CAN_BIND", True)

    return pretend


def test_jobs_get_whole_cores(machine: Callable[[dict[int, int]], None]) -> None:
    machine({0: 0, 1: 1, 2: 2, 3: 0, 4: 1, 5: 2})  # the second thread of each core comes after all first ones
    assert divide_processors(1) == [()]
    assert divide_processors(2) == [(0, 3), (1, 4, 2, 5)]
    assert divide_processors(3) == [(0, 3), (1, 4), (2, 5)]
    assert [threads_of_job(jobs) for jobs in (1, 2, 3, 6)] == [3, 1, 1, 1]


def test_more_jobs_than_cores_share_them_and_more_than_processors_are_refused(
    machine: Callable[[dict[int, int]], None],
) -> None:
    machine({0: 0, 1: 0})
    assert divide_processors(2) == [(0,), (1,)]
    with pytest.raises(UsageError, match="--jobs 3: this process may use 2 processors"):
        divide_processors(3)
