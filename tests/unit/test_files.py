"""What is written appears whole or not at all; a failure names the file; one module alone writes files."""

from __future__ import annotations

import ast
import errno
import os
import re
import resource
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import explora
from explora.core import files
from explora.core.files import (
    append_line,
    empty_folder,
    remove_folder,
    remove_leftovers,
    replace_folder,
    replacing,
    replacing_files_in,
    replacing_folder,
    settle_folder,
    whole_folder,
    write_atomically,
    write_tensors,
    writing,
)
from explora.errors import WriteError

PACKAGE = Path(explora.__file__).parent
MOVES = {
    "os": {"replace", "rename", "renames", "mkdir", "makedirs", "link", "symlink"},
    "shutil": {"move", "copy", "copy2", "copyfile", "copytree"},
    "torch": {"save"},
    "numpy": {"save", "savez"},
    "np": {"save", "savez"},
}
WRITES = {"write_text", "write_bytes", "mkdir", "touch", "symlink_to", "hardlink_to", "tofile"}
WRITES |= {"save_file", "save_pretrained", "savefig"}
FLAGS = {"O_WRONLY", "O_RDWR", "O_CREAT"}
# What other modules write, and why a WriteError would make no sense there.
ELSEWHERE = {
    "streams.py": {"open"},  # /dev/null, in the place of closed streams
    "core/cache.py": {"mkdir"},  # finds out whether the cache can be written
    "core/runs/ownership.py": {"mkdir"},  # the folder of a lock, before anything is written
    "core/machine/facts.py": {"write_text"},  # resets a counter of the kernel
    "core/bench/peer_process.py": {"save_pretrained"},  # peft measures itself, in a temporary folder
    "core/reports/drawing.py": {"savefig"},  # into memory
}
FOLDERS = [replacing_folder, replacing_files_in]
Replacing = Callable[[Path], AbstractContextManager[Path]]
REFUSALS = [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.ENOENT]
SIZE = 1 << 16


def text(file: Path) -> None:
    write_atomically(file, "x" * SIZE)


def tensors(file: Path) -> None:
    write_tensors(file, {"x": torch.ones(SIZE)})


def portions(file: Path) -> None:
    with writing(file) as write:
        for _ in range(4):
            write(b"x" * (SIZE // 4))


WRITERS = [text, tensors, portions]


class Broken(Exception):
    """Stands for a full disk, or Ctrl-C, in the middle of writing."""


# --- one file -------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["Lücke\n", b"\x00\xff"])
def test_a_file_is_replaced_whole_and_its_folders_are_made(tmp_path: Path, content: str | bytes) -> None:
    file = tmp_path / "new" / "folder" / "file.txt"
    write_atomically(file, "before")
    write_atomically(file, content)
    assert file.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("code", REFUSALS, ids=errno.errorcode.get)
@pytest.mark.parametrize("operation", ["mkdir", "open", "replace"])
@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_a_refusal_of_the_system_names_the_file_and_leaves_the_old_one(
    write: Callable[[Path], None], operation: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "folder" / "file.txt"
    write_atomically(file, "before")

    def refuses(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(Path, operation, refuses)
        if operation == "open":
            patch.setattr(Path, "touch", refuses)
        with pytest.raises(WriteError) as caught:
            write(file)
    assert caught.value.message == f"{file} cannot be written: {os.strerror(code)}"
    assert caught.value.hint and caught.value.exit_code == 1
    assert file.read_text() == "before"
    assert list(file.parent.iterdir()) == [file]


def test_a_full_disk_and_a_removed_folder_are_told_when_a_line_is_appended(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="/dev/full cannot be written: No space left on device"):
        append_line(Path("/dev/full"), "a line")
    with pytest.raises(WriteError, match=r"metrics\.jsonl cannot be written: No such file") as caught:
        append_line(tmp_path / "gone" / "metrics.jsonl", "a line")
    assert "was removed" in caught.value.hint


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_a_limit_of_the_system_is_met_by_every_writer(write: Callable[[Path], None], tmp_path: Path) -> None:
    """The system refuses for real, in the middle of a file; safetensors has errors of its own for that."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, before[1]))
    try:
        with pytest.raises(WriteError, match=r"file\.txt cannot be written: File too large"):
            write(tmp_path / "file.txt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_a_device_is_written_and_not_replaced(tmp_path: Path) -> None:
    link = tmp_path / "device"
    link.symlink_to("/dev/full")
    with pytest.raises(WriteError, match="device cannot be written: No space left on device"):
        write_atomically(link, "text")
    assert link.is_symlink()


def test_an_error_of_the_reader_is_not_told_as_one_of_the_writer(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="unreadable"), writing(tmp_path / "file.txt"):
        raise OSError("the source is unreadable")
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_a_folder_is_told_by_the_name_that_it_would_have(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match=f"^{tmp_path}/run/a cannot be written"):  # noqa: SIM117
        with replacing_files_in(tmp_path / "run") as staged:
            raise WriteError(str(staged / "a"), "Input/output error")


def test_tensors_are_as_readable_as_other_files(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", "text")
    write_tensors(tmp_path / "b", {"x": torch.ones(2)}, {"format": "pt"})
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode
    assert load_file(tmp_path / "b")["x"].tolist() == [1, 1]


def test_readers_find_the_old_file_until_the_new_one_is_complete(tmp_path: Path) -> None:
    file = tmp_path / "file.txt"
    file.write_text("before")
    with replacing(file) as partial:
        partial.write_text("af")
        assert file.read_text() == "before"
        partial.write_text("after")
    assert file.read_text() == "after"


# --- folders --------------------------------------------------------------------------------------


def fill(folder: Path, **content: str) -> None:
    folder.mkdir()
    for name, text in content.items():
        (folder / name).write_text(text)


def content_of(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir()}


@pytest.mark.parametrize("replacing", FOLDERS)
def test_a_new_folder_appears_whole(replacing: Replacing, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "folder"
    with replacing(target) as staged:
        fill(staged, a="1")
        assert not target.exists()
    assert content_of(target) == {"a": "1"}
    assert list(target.parent.iterdir()) == [target]


def test_a_folder_is_replaced_with_all_its_content(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    fill(target, a="old", b="old")
    with replacing_folder(target) as staged:
        fill(staged, a="new")
    assert content_of(target) == {"a": "new"}
    assert list(tmp_path.iterdir()) == [target]


def test_files_are_replaced_and_their_neighbours_stay(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    fill(target, a="old", b="old")
    with replacing_files_in(target) as staged:
        fill(staged, a="new", c="new")
    assert content_of(target) == {"a": "new", "b": "old", "c": "new"}
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("replacing", FOLDERS)
def test_an_error_leaves_folders_as_they_were(replacing: Replacing, exists: bool, tmp_path: Path) -> None:
    target = tmp_path / "folder"
    if exists:
        fill(target, a="old")
    with pytest.raises(Broken), replacing(target) as staged:
        fill(staged, a="new")
        raise Broken
    assert list(tmp_path.iterdir()) == ([target] if exists else [])
    assert not exists or content_of(target) == {"a": "old"}


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_kill_while_a_folder_is_replaced_leaves_one_of_them_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    """Killed after so many renames: readers find a whole folder, and settling removes what is left over."""
    target, new = tmp_path / "folder", tmp_path / "new"
    fill(target, a="old", b="old")
    fill(new, a="new")
    rename, left = Path.replace, renames

    def dies(path: Path, to: Path) -> Path:
        nonlocal left
        if not left:
            raise Broken
        left -= 1
        return rename(path, to)

    with monkeypatch.context() as patch, pytest.raises(Broken):
        patch.setattr(Path, "replace", dies)
        replace_folder(new, target)
    whole = {"a": "new"} if renames == 2 else {"a": "old", "b": "old"}
    assert content_of(whole_folder(target)) == whole
    settle_folder(target)
    assert content_of(target) == whole
    assert set(tmp_path.iterdir()) == {target} | (set() if renames == 2 else {new})
    if new.exists():
        replace_folder(new, target)
    assert content_of(target) == {"a": "new"}


def test_a_removed_folder_that_cannot_be_deleted_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise PermissionError("not yours")

    remove_folder(tmp_path / "nowhere")
    fill(tmp_path / "folder", a="1")
    monkeypatch.setattr("shutil.rmtree", fails)
    with pytest.raises(PermissionError, match="not yours"):
        remove_folder(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_a_folder_is_emptied_and_links_in_it_are_not_followed(tmp_path: Path) -> None:
    fill(tmp_path / "kept", a="1")
    fill(tmp_path / "folder", b="2")
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "folder" / "inner").mkdir()
    empty_folder(tmp_path / "folder")
    assert list((tmp_path / "folder").iterdir()) == []
    assert content_of(tmp_path / "kept") == {"a": "1"}


@pytest.mark.parametrize("name", ["run.7.partial", "run/run.json.7.partial", "run/.checkpoint.partial-x_1"])
def test_what_dead_processes_left_unfinished_is_removed(name: str, tmp_path: Path) -> None:
    write_atomically(tmp_path / name, "")
    write_atomically(tmp_path / ".run.partial-ab12" / "a", "")
    remove_leftovers(tmp_path / "run")
    assert [item.name for item in tmp_path.rglob("*")] in ([], ["run"])


@pytest.mark.parametrize(
    "name", ["run/run.json", "running.7.partial", "run.b.partial", ".run.partial", ".run.new"]
)
def test_nothing_else_is_removed(name: str, tmp_path: Path) -> None:
    write_atomically(tmp_path / name, "")
    remove_leftovers(tmp_path / "run")
    assert (tmp_path / name).is_file()


# --- the only place -------------------------------------------------------------------------------


def calls_that_write(source: str) -> list[tuple[int, str]]:
    """Return the lines that write, move or create files, each with the name of what it calls."""
    return [
        (node.lineno, name)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.Call, ast.ImportFrom)) and (name := name_of_write(node))
    ]


def name_of_write(node: ast.Call | ast.ImportFrom) -> str:
    if isinstance(node, ast.ImportFrom):
        taken = {alias.name for alias in node.names} & (WRITES | MOVES.get(node.module or "", set()))
        return min(taken, default="")
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    owner = node.func.value if isinstance(node.func, ast.Attribute) else None
    module = owner.id if isinstance(owner, ast.Name) else ""
    if name in WRITES or name in MOVES.get(module, ()):
        return name
    if name in ("replace", "rename"):  # a path's `replace` has one argument, a string's has two
        is_path = owner is not None and module != "dataclasses" and len(node.args) == 1 and not node.keywords
        return name if is_path else ""
    return name if name == "open" and opens_to_write(node) else ""


def opens_to_write(node: ast.Call) -> bool:
    """Tell whether a call of `open` has a mode or flags other than for reading."""
    arguments = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg == "mode")]
    modes = [str(each.value) for each in arguments if isinstance(each, ast.Constant)]
    flags = {
        each.attr for argument in arguments for each in ast.walk(argument) if isinstance(each, ast.Attribute)
    }
    return any(re.fullmatch("[rbt]*[wax+][wax+bt]*", mode) for mode in modes) or bool(flags & FLAGS)


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: file.stem)
def test_no_other_module_writes_files(file: Path) -> None:
    found = {name for _, name in calls_that_write(file.read_text(encoding="utf-8"))}
    if file == Path(files.__file__):
        assert {"replace", "open", "write_bytes", "save_file", "mkdir"} <= found
    else:
        assert found == ELSEWHERE.get(file.relative_to(PACKAGE).as_posix(), set())


@pytest.mark.parametrize(
    "line",
    [
        "partial.replace(file)",
        "(folder / 'a.partial').rename(folder / 'a')",
        "os.replace(partial, file)",
        "shutil.move(partial, file)",
        "from os import replace",
        "from shutil import move as put",
        "from safetensors.torch import load_file, save_file",
        "file.write_text('a')",
        "file.open('a', encoding='utf-8')",
        "open(file, mode='r+b')",
        "os.open(file, os.O_RDWR | os.O_CREAT)",
        "folder.mkdir()",
        "torch.save(tensors, file)",
        "shutil.copy(file, folder)",
    ],
)
def test_a_write_made_by_hand_is_found(line: str) -> None:
    assert [number for number, _ in calls_that_write(line)] == [1]


@pytest.mark.parametrize(
    "line",
    [
        "text.replace('a', 'b')",
        "dataclasses.replace(run, seed=1)",
        "dataclasses.replace(run)",
        "replace(run)",
        "file.open('rb')",
        "open(file)",
        "open(file, encoding='utf-8')",
        "write_atomically(file, 'a')",
        "sys.stdout.write('a')",
    ],
)
def test_other_calls_are_no_writes(line: str) -> None:
    assert calls_that_write(line) == []
