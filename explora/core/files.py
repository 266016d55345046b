"""The only module that replaces files: what it writes appears whole or not at all.

After an error or a kill, the old content is still there. What is unfinished lies beside its target, because a
rename is atomic only within one file system.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder for what can be computed again; it need not exist.

    It is $XDG_CACHE_HOME/explora, or ~/.cache/explora.
    """
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "explora"


def write_atomically(file: Path, content: str | bytes) -> None:
    """Write a whole file, text as UTF-8; its folders are created."""
    with replacing(file) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yield the path of a file to write; at the end it replaces `file`, after an error it is removed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")  # processes may write the same file
    try:
        yield partial
        partial.replace(file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield the path of a folder to create; at the end it replaces `folder` with all its content."""
    with _scratch_beside(folder) as scratch:
        yield scratch / "new"
        replace_folder(scratch / "new", folder)


def replace_folder(new: Path, folder: Path) -> None:
    """Put the folder `new` in the place of `folder`, and remove what was there.

    At every moment one of them is whole. After a kill between the two renames, the old one is where
    `whole_folder` finds it, and `settle_folder` puts it back. Only one process at a time may do this.
    """
    settle_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        folder.replace(_set_aside(folder))
    new.replace(folder)
    settle_folder(folder)


def settle_folder(folder: Path) -> None:
    """Finish a replacement that a kill broke off: put the old folder back, or remove it if it is replaced."""
    old = _set_aside(folder)
    if not old.exists():
        return
    if folder.exists():
        remove_folder(old)
    else:
        old.replace(folder)


def whole_folder(folder: Path) -> Path:
    """Return `folder`, or where it lies since a kill broke off its replacement. This changes nothing."""
    if folder.exists():
        return folder
    old = _set_aside(folder)
    return old if old.exists() else folder


def _set_aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def remove_folder(folder: Path) -> None:
    """Remove a folder, if it exists: it disappears at once, then its content is deleted."""
    if not folder.exists():
        return
    with _scratch_beside(folder) as scratch:
        folder.replace(scratch / "removed")


def empty_folder(folder: Path) -> None:
    """Remove the content of a folder, if there is such a folder."""
    for item in folder.iterdir() if folder.exists() else ():
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item)
        else:
            item.unlink()


@contextmanager
def replacing_files_in(folder: Path) -> Iterator[Path]:
    """Yield the path of a folder to create; at the end each of its files replaces the one in `folder`.

    Other files in `folder` stay. If `folder` does not exist, it appears whole.
    """
    with _scratch_beside(folder) as scratch:
        yield scratch / "new"
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not folder.exists():
            (scratch / "new").replace(folder)
            return
        for file in sorted((scratch / "new").iterdir()):
            file.replace(folder / file.name)


@contextmanager
def _scratch_beside(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder on the file system where `folder` is, or will be."""
    near = next(parent for parent in folder.absolute().parents if parent.is_dir())
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=near) as scratch:
        yield Path(scratch)
