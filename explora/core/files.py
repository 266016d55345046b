"""The only module that replaces files: what it writes appears whole or not at all.

After an error or a kill, the old content is still there. What is unfinished lies beside its target, because a
rename is atomic only within one file system.
"""

from __future__ import annotations

import os
import tempfile
import uuid
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


def write_once(file: Path, content: str) -> bool:
    """Write a whole file, as UTF-8, unless it exists; return whether it was written.

    Of several processes that do this at once, also on different machines, one succeeds.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f"{file.name}.{uuid.uuid4().hex}.partial")
    draft.write_text(content, encoding="utf-8")
    try:
        os.link(draft, file)
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    return True


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
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists():
            folder.replace(scratch / "old")  # a kill before the next line leaves the old folder there
        (scratch / "new").replace(folder)


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
