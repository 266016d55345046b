"""What is written appears whole or not at all, and one module alone replaces files."""

from __future__ import annotations

import ast
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

import explora
from explora.core import files
from explora.core.files import (
    empty_folder,
    remove_folder,
    replace_folder,
    replacing,
    replacing_files_in,
    replacing_folder,
    settle_folder,
    whole_folder,
    write_atomically,
)

PACKAGE = Path(explora.__file__).parent
MOVES = {"os": {"replace", "rename", "renames"}, "shutil": {"move"}}
FOLDERS = [replacing_folder, replacing_files_in]
Replacing = Callable[[Path], AbstractContextManager[Path]]


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


@pytest.mark.parametrize("operation", ["write_bytes", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    file = tmp_path / "file.txt"
    file.write_text("before")

    def fails(path: Path, *_: object) -> None:
        path.write_text("a part")
        raise OSError("no space left")

    monkeypatch.setattr(Path, operation, fails)
    with pytest.raises(OSError, match="no space left"):
        write_atomically(file, "after")
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]


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


# --- the only place -------------------------------------------------------------------------------


def moves_files(node: ast.AST) -> bool:
    """Tell whether a node moves or replaces a file.

    A path's `replace` has one argument, a string's has two, and `dataclasses.replace` is no method.
    """
    if isinstance(node, ast.ImportFrom):
        return any(alias.name in MOVES.get(node.module or "", ()) for alias in node.names)
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
    if node.func.attr in MOVES.get(owner, ()):
        return True
    named_like_paths = node.func.attr in ("replace", "rename") and owner != "dataclasses"
    return named_like_paths and len(node.args) == 1 and not node.keywords


def lines_that_move_files(source: str) -> list[int]:
    return [getattr(node, "lineno", 0) for node in ast.walk(ast.parse(source)) if moves_files(node)]


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: file.stem)
def test_no_other_module_replaces_files(file: Path) -> None:
    found = lines_that_move_files(file.read_text(encoding="utf-8"))
    assert bool(found) == (file == Path(files.__file__))


@pytest.mark.parametrize(
    "line",
    [
        "partial.replace(file)",
        "(folder / 'a.partial').rename(folder / 'a')",
        "os.replace(partial, file)",
        "shutil.move(partial, file)",
        "from os import replace",
        "from shutil import move as put",
    ],
)
def test_a_hand_made_replacement_is_found(line: str) -> None:
    assert lines_that_move_files(line) == [1]


@pytest.mark.parametrize(
    "line",
    [
        "text.replace('a', 'b')",
        "dataclasses.replace(run, seed=1)",
        "dataclasses.replace(run)",
        "replace(run)",
    ],
)
def test_other_replacements_are_none(line: str) -> None:
    assert lines_that_move_files(line) == []
