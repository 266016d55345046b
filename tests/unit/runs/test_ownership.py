"""One process at a time owns a folder: it is named to the others, and a dead one is no obstacle."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from explora.core.runs import ownership
from explora.core.runs.ownership import check_unowned, owning
from explora.errors import InUseError, WriteError


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "PATIENCE", 0.1)


@pytest.fixture
def other_process() -> Iterator[psutil.Process]:
    """A process that only waits."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield psutil.Process(process.pid)
        process.kill()


def leave_owner(folder: Path, **facts: Any) -> Path:
    """Write the file of an owner as a process that was killed leaves it behind."""
    known = {"process": 1, "host": socket.gethostname(), "started": 0.0, "command": "explora train text"}
    file = folder.with_name(f".{folder.name}.owner")
    file.write_text(json.dumps(known | facts), encoding="utf-8")
    return file


def test_an_owned_folder_names_its_process_and_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "text"
    with owning(folder):
        owner = json.loads((tmp_path / "runs" / ".text.owner").read_text(encoding="utf-8"))
        assert (owner["process"], owner["host"]) == (os.getpid(), socket.gethostname())
        assert abs(owner["started"] - psutil.Process().create_time()) < 1
        assert not folder.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_second_owner_is_refused_and_told_about_the_first(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    with owning(tmp_path / "run"):
        for name in ("run", "link"):
            with pytest.raises(InUseError) as caught, owning(tmp_path / name):
                pass
            assert f"process {os.getpid()} on host {socket.gethostname()}, started 20" in caught.value.message
            assert f"(kill {os.getpid()})" in caught.value.hint
        with pytest.raises(InUseError):
            check_unowned(tmp_path / "link")
        with owning(tmp_path / "other"):
            pass
    with owning(tmp_path / "link"):
        pass


def test_the_command_of_the_owner_is_what_a_person_types(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["/lib/explora/__main__.py", "train", "text"])
    with owning(tmp_path / "run"), pytest.raises(InUseError, match=r"\(explora train text\)"):
        check_unowned(tmp_path / "run")


def test_a_living_process_keeps_a_folder_whose_lock_file_was_removed(
    tmp_path: Path, other_process: psutil.Process
) -> None:
    leave_owner(tmp_path / "run", process=other_process.pid, started=other_process.create_time())
    with pytest.raises(InUseError, match=f"process {other_process.pid} "), owning(tmp_path / "run"):
        pass


@pytest.mark.parametrize("why", ["dead", "another start"])
def test_a_dead_process_of_this_host_is_no_obstacle(
    tmp_path: Path, other_process: psutil.Process, why: str
) -> None:
    started = other_process.create_time()
    leave_owner(tmp_path / "run", process=other_process.pid, started=started - 60 * (why == "another start"))
    if why == "dead":
        other_process.kill()
        while other_process.status() != psutil.STATUS_ZOMBIE:  # not waited for, as in a container
            pass
    check_unowned(tmp_path / "run")
    with owning(tmp_path / "run"):
        pass


def test_another_host_is_never_taken_over(tmp_path: Path) -> None:
    file = leave_owner(tmp_path / "run", host="another-host", process=4242)
    with pytest.raises(InUseError, match="4242 on host another-host") as caught, owning(tmp_path / "run"):
        pass
    assert "known to be dead, remove " in caught.value.hint and str(file) in caught.value.hint
    assert file.exists()
    file.unlink()
    with owning(tmp_path / "run"):
        pass


def test_a_damaged_owner_file_is_no_owner(tmp_path: Path) -> None:
    leave_owner(tmp_path / "run").write_text("{", encoding="utf-8")
    with owning(tmp_path / "run"):
        pass


def test_a_file_system_without_flock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise OSError(errno.ENOSYS, "no flock")

    monkeypatch.setattr("fcntl.flock", missing)
    with (
        owning(tmp_path / "run"),
        pytest.raises(InUseError, match=f"process {os.getpid()} "),
        owning(tmp_path / "run"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("refusal", [errno.ENOENT, errno.EACCES])
def test_a_folder_without_room_for_a_lock_is_no_folder_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    real = os.open

    def refuse(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path).endswith(".lock"):
            raise OSError(refusal, os.strerror(refusal), path)
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    with (
        pytest.raises(WriteError, match=f"cannot create a lock in {tmp_path}") as caught,
        owning(tmp_path / "run"),
    ):
        pass
    assert "-o FOLDER" in caught.value.hint
