"""Bytes to text: the encoding of a file is found or named; what is no text is refused, with the reason."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import BinaryIO

from explora.errors import DataError, UsageError

STDIN = "-"
AUTO = "auto"  # as encoding: UTF-8, or UTF-16 or UTF-32 where the first bytes show it
UTF_8 = "utf-8"

# Longer marks first: the one of UTF-32 begins with the one of UTF-16.
_MARKS = {
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
    b"\xef\xbb\xbf": UTF_8,
}
_MAGIC = {
    b"\x1f\x8b": "a gzip file",
    b"\xfd7zXZ": "an xz file",
    b"PK\x03\x04": "a zip file (or a spreadsheet)",
    b"PAR1": "a Parquet file",
    b"SQLite format 3": "an SQLite database",
    b"%PDF": "a PDF",
}
_DATA_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".txt", ".xz", ".gz")
SAMPLE = 4096  # bytes that show what a file is
_SURROGATE = re.compile("[\ud800-\udfff]")
_LONG_RUN = re.compile(rb"[\x80-\xff]{4}")


def read_text(source: str, encoding: str = AUTO) -> str:
    """Return the text of a file, or of standard input for "-"; a byte-order mark is dropped.

    Raises DataError when there is no such file, when it is empty, or when it is no text in this encoding.
    """
    data = _read_standard_input() if source == STDIN else read_bytes(Path(source))
    file = name_of(source)
    codec = find_encoding(data[:SAMPLE], file, encoding)
    try:
        text = data.decode(codec).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data[: error.start].decode(codec, "ignore").count("\n") + 1
        raise undecodable(data, error, file, line, codec) from None
    if not text.strip():
        raise DataError("the file is empty", file=file)
    return text


def standard_input() -> BinaryIO:
    """Return standard input as bytes. Raises DataError if the process was started without it."""
    if sys.stdin is None:
        raise DataError("standard input is closed", "pipe something in, or name a file", file=name_of(STDIN))
    return sys.stdin.buffer


def _read_standard_input() -> bytes:
    try:
        return standard_input().read()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=name_of(STDIN)) from None


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


def find_encoding(start: bytes, file: str, encoding: str = AUTO) -> str:
    """Return the codec of a text from its first bytes: by its mark, as asked, or by its zeros.

    Raises DataError when the bytes show that the file is no text, UsageError for an unknown encoding.
    """
    for magic, kind in _MAGIC.items():
        if start.startswith(magic):
            raise DataError(f"this is {kind}, not a text file", file=file)
    for mark, codec in _MARKS.items():
        if start.startswith(mark):
            return codec
    if encoding != AUTO:
        return _known(encoding)
    if start.count(0) <= len(start) // 4:
        return UTF_8
    # UTF-16 without its mark: in Western text every other byte is zero.
    high, low = start[::2].count(0), start[1::2].count(0)
    if min(high, low) > 0:
        raise DataError("this is a binary file, not text", file=file)
    return "utf-16-be" if high else "utf-16-le"


def _known(encoding: str) -> str:
    try:
        b"    ".decode(encoding, "ignore")  # codecs of no text, such as base64, are refused here too
    except (LookupError, UnicodeError):
        hint = "such as utf-8, cp1252 (Windows, Western Europe), latin-1, utf-16, gb18030 or shift_jis"
        raise UsageError(f"--encoding {encoding!r} is no text encoding", hint) from None
    return encoding


def undecodable(data: bytes, error: UnicodeDecodeError, file: str, line: int, codec: str) -> DataError:
    """Return the error for bytes that `codec` cannot decode: of another encoding, or no text at all."""
    if codec == UTF_8 and 0 in data[:SAMPLE]:
        return DataError("this is a binary file, not text", file=file)
    byte = error.object[error.start]
    return DataError(f"byte 0x{byte:02X} is not {codec.upper()}", _other_encoding(data), file=file, line=line)


def _other_encoding(data: bytes) -> str:
    likely = likely_encoding(data)
    if likely:
        return f"if the file is from Windows or Excel, read it with --encoding {likely}"
    return "name its encoding, such as --encoding cp1251, gb18030 or shift_jis; or save it as UTF-8"


def likely_encoding(data: bytes) -> str:
    """Return the encoding that bytes other than UTF-8 probably have; "" when they do not tell.

    Windows-1252 includes what is printable of Latin-1. Four bytes beyond ASCII in a row are not Western
    European text.
    """
    try:
        data.decode("cp1252")
    except UnicodeDecodeError:
        return ""
    return "" if _LONG_RUN.search(data) else "cp1252"


def what_is_wrong(text: str) -> str:
    """Return why a text cannot be used, "" when it can."""
    if not text:
        return "empty, a value is expected"
    if "\0" in text:
        return "a NUL byte in the text"
    if _SURROGATE.search(text):
        return "half a surrogate pair: this is not Unicode text"
    return ""


def _may_be_data(path: Path) -> bool:
    """Return whether a path is named like a data file, or is a folder with such files that is no run."""
    if path.name.startswith("."):
        return False
    if path.is_dir() and os.access(path, os.R_OK):
        files = list(path.iterdir())
        return any(map(_has_data_suffix, files)) and all(file.name != "run.json" for file in files)
    return _has_data_suffix(path)


def _has_data_suffix(path: Path) -> bool:
    return path.suffix.lower() in _DATA_SUFFIXES


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return f"there is no folder {path.parent} either"
    names = sorted(item.name for item in path.parent.iterdir() if _may_be_data(item))
    if not names:
        return ""
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"{path.parent} has {shown}"
