"""Bytes to text: what is not UTF-8 text is refused, with the reason and the line."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from explora.errors import DataError

STDIN = "-"

# Longer marks first: the one of UTF-32 begins with the one of UTF-16.
_MARKS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_MAGIC = {
    b"\x1f\x8b": "a gzip file",
    b"\xfd7zXZ": "an xz file",
    b"PK\x03\x04": "a zip file (or a spreadsheet)",
    b"PAR1": "a Parquet file",
    b"SQLite format 3": "an SQLite database",
    b"%PDF": "a PDF",
}
_SAMPLE = 4096
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_text(source: str) -> str:
    """Return the text of a UTF-8 file, or of standard input for "-"; a byte-order mark is dropped.

    Raises DataError when there is no such file, when it is empty, or when it is not UTF-8 text.
    """
    data = sys.stdin.buffer.read() if source == STDIN else read_bytes(Path(source))
    file = name_of(source)
    refuse_binary(data[:_SAMPLE], file)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise not_utf8(data, error, file, line) from None
    if not text.strip():
        raise DataError("the file is empty", file=file)
    return text


def name_of(source: str) -> str:
    """Return what to call a source in a message."""
    return "<stdin>" if source == STDIN else source


def check_is_file(path: Path) -> None:
    """Raise DataError unless `path` is there and no folder."""
    if path.is_dir():
        raise DataError("this is a folder, a file is expected", file=str(path))
    if not path.exists():
        raise DataError("no such file", _neighbours(path), file=str(path))


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a file; DataError when it is not there or not readable."""
    check_is_file(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=str(path)) from None


def refuse_binary(start: bytes, file: str) -> None:
    """Raise DataError when the first bytes of a file show that it is not UTF-8 text."""
    for mark, encoding in _MARKS.items():
        if start.startswith(mark):
            raise DataError(f"the file is {encoding}, not UTF-8", _recode(encoding, file), file=file)
    for mark, kind in _MAGIC.items():
        if start.startswith(mark):
            raise DataError(f"this is {kind}, not a text file", file=file)
    # UTF-16 without its mark: in Western text every other byte is zero.
    if start.count(0) > len(start) // 4:
        halves = start[::2].count(0), start[1::2].count(0)
        if min(halves) == 0:
            raise DataError("the file looks like UTF-16, not UTF-8", _recode("UTF-16", file), file=file)
        raise DataError("this is a binary file, not text", file=file)


def not_utf8(data: bytes, error: UnicodeDecodeError, file: str, line: int) -> DataError:
    """Return the error for bytes that are not UTF-8: of another encoding, or no text at all."""
    if 0 in data[:_SAMPLE]:
        return DataError("this is a binary file, not text", file=file)
    byte = error.object[error.start]
    return DataError(f"byte 0x{byte:02X} is not UTF-8", _recode("LATIN1", file), file=file, line=line)


def what_is_wrong(text: str) -> str:
    """Return why a text cannot be used, "" when it can."""
    if not text:
        return "empty, a value is expected"
    if "\0" in text:
        return "a NUL byte in the text"
    if _SURROGATE.search(text):
        return "half a surrogate pair: this is not Unicode text"
    return ""


def _recode(encoding: str, file: str) -> str:
    return f"convert it: iconv -f {encoding} -t UTF-8 {file} > {Path(file).stem}-utf8.csv"


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return f"there is no folder {path.parent} either"
    names = sorted(item.name for item in path.parent.iterdir() if not item.name.startswith("."))
    if not names:
        return ""
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"{path.parent} has {shown}"
