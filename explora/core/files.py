"""Writing of files, only in this module: a file appears whole or not at all.

After an error or a kill, the old content still exists. Unfinished content is beside its target, because a
rename is atomic only within one file system. Every error of the system becomes a WriteError with the file.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from explora.errors import WriteError

if TYPE_CHECKING:
    from torch import Tensor

_ELSEWHERE = "choose a folder that you may write to"
_WAYS_OUT = {
    errno.ENOSPC: "free some space on this disk, or choose a folder on another one",
    errno.EDQUOT: "your disk quota is used up: delete something, or choose a folder elsewhere",
    errno.EFBIG: "the system limits the size of files (ulimit -f)",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.EIO: "the disk reports an error: choose a folder on another one",
    errno.EACCES: _ELSEWHERE,
    errno.EPERM: _ELSEWHERE,
    errno.ENOENT: "its folder does not exist, or was removed: choose another one",
}


def write_atomically(file: Path, content: str | bytes) -> None:
    """Write a whole file, text as UTF-8; missing folders are created."""
    with replacing(file) as partial, _named(file):
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def write_once(file: Path, content: str) -> bool:
    """Write a whole file as UTF-8 unless it exists; return whether it was written.

    If several processes do this at the same time, also on different machines, only one succeeds.
    """
    draft = file.with_name(f"{file.name}.{uuid.uuid4().hex}.partial")
    with _named(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(content, encoding="utf-8")
        try:
            os.link(draft, file)
        except FileExistsError:
            return False
        finally:
            draft.unlink()
    return True


def write_tensors(file: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file with the usual permissions of files."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with replacing(file) as partial, _named(file):
        partial.touch()
        mode = partial.stat().st_mode
        try:
            save_file(dict(tensors), partial, metadata=metadata)
        except SafetensorError as error:
            raise _system_error(str(error)) from None
        partial.chmod(mode)  # safetensors restricts its files to their owner


def _system_error(text: str) -> OSError:
    """Return the system's error behind a library's own error, from the number in its text."""
    found = re.search(r"\(os error (\d+)\)", text)
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found else OSError(text)


@contextmanager
def writing(file: Path) -> Iterator[Callable[[bytes], None]]:
    """Yield a function that writes the next bytes of a file; the file appears at the end."""
    with replacing(file) as partial, _open(partial, file) as write:
        yield write


@contextmanager
def writing_in_place(file: Path) -> Iterator[Callable[[bytes], None]]:
    """Yield a function that writes the next bytes of a new file in the place of an old one.

    It is for large files that can be recomputed: the old file is removed first, to free its space. A killed
    process leaves its unfinished file under the same name.
    """
    with _named(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
    with _open(file, file) as write:
        yield write


@contextmanager
def _open(path: Path, file: Path) -> Iterator[Callable[[bytes], None]]:
    """Yield a function that writes to `path`; a WriteError names `file`."""
    with _named(file):
        out = path.open("wb")

    def write(content: bytes) -> None:
        with _named(file):
            out.write(content)

    try:
        yield write
    finally:
        with _named(file):
            out.close()


def append_line(file: Path, line: str) -> None:
    """Append a line of text to a file in an existing folder."""
    with _named(file), file.open("a", encoding="utf-8") as out:
        out.write(line + "\n")


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yield the path of a file to write; at the end it replaces `file`, after an error it is removed.

    A device or a pipe, such as /dev/stdout, is written directly.
    """
    if file.exists() and not file.is_file():
        yield file
        return
    with _named(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")  # processes may write the same file
    try:
        yield partial
        with _named(file):
            partial.replace(file)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield the path of a folder to create; at the end it replaces `folder` with all its content."""
    with _scratch_beside(folder) as scratch:
        yield scratch / "new"
        replace_folder(scratch / "new", folder)


def replace_folder(new: Path, folder: Path) -> None:
    """Replace `folder` by the folder `new`, and remove the old content.

    At every moment one of them is whole. If the process is killed between the two renames, `whole_folder`
    finds the old folder and `settle_folder` restores it. Only one process at a time may do this.
    """
    with _named(folder):
        settle_folder(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists():
            folder.replace(_set_aside(folder))
        new.replace(folder)
        settle_folder(folder)


def settle_folder(folder: Path) -> None:
    """Finish a replacement that a kill interrupted: restore the old folder, or remove a replaced one."""
    old = _set_aside(folder)
    if not old.exists():
        return
    if folder.exists():
        remove_folder(old)
    else:
        old.replace(folder)


def whole_folder(folder: Path) -> Path:
    """Return `folder`, or its location if a kill interrupted its replacement. Nothing is changed."""
    if folder.exists():
        return folder
    old = _set_aside(folder)
    return old if old.exists() else folder


def _set_aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def remove_folder(folder: Path) -> None:
    """Remove a folder, if it exists: it disappears immediately, then its content is deleted."""
    if not folder.exists():
        return
    with _scratch_beside(folder) as scratch:
        folder.replace(scratch / "removed")


def empty_folder(folder: Path) -> None:
    """Remove the content of a folder, if the folder exists."""
    for item in folder.iterdir() if folder.exists() else ():
        _delete(item)


@contextmanager
def replacing_files_in(folder: Path) -> Iterator[Path]:
    """Yield the path of a folder to create; at the end each of its files replaces the one in `folder`.

    Other files in `folder` stay. If `folder` does not exist, it appears whole.
    """
    with _scratch_beside(folder) as scratch:
        yield scratch / "new"
        with _named(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            if not folder.exists():
                (scratch / "new").replace(folder)
                return
            for file in sorted((scratch / "new").iterdir()):
                file.replace(folder / file.name)


def remove_leftovers(path: Path) -> None:
    """Remove unfinished files of killed processes, beside a file or folder and in it.

    Only its owner may call this, because the unfinished files of a running process look the same.
    """
    name = re.escape(path.name)
    beside = re.compile(rf"{name}\.\d+\.partial|\.{name}\.partial-\w+")
    within = re.compile(r".+\.\d+\.partial|\..+\.partial-\w+")
    for folder, unfinished in ((path.parent, beside), (path, within)):
        for item in list(folder.iterdir()) if folder.is_dir() else ():
            if unfinished.fullmatch(item.name):
                _delete(item)


def _delete(item: Path) -> None:
    if item.is_dir() and not item.is_symlink():
        shutil.rmtree(item)
    else:
        item.unlink()


@contextmanager
def _scratch_beside(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder on the file system of `folder`, which need not exist yet."""
    near = next(parent for parent in folder.absolute().parents if parent.is_dir())
    with _named(folder):
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=near))
    try:
        yield scratch
    except WriteError as error:  # name the file by its final path
        raise WriteError(
            error.file.replace(str(scratch / "new"), str(folder)), error.reason, error.hint
        ) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Convert an error of the system to a WriteError with the name of `file`."""
    try:
        yield
    except OSError as error:
        hint = _WAYS_OUT.get(error.errno or 0, "")
        raise WriteError(str(file), error.strerror or str(error), hint) from None
