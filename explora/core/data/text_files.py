"""Conversion of bytes to text: detect the encoding, and refuse files that are not text, with the reason."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import BinaryIO

from explora.errors import DataError, UsageError

STDIN = "-"
AUTO = "auto"  # the encoding UTF-8, or UTF-16 or UTF-32 if the first bytes show it
UTF_8 = "utf-8"

# Longer marks come first, because the mark of UTF-32 begins with that of UTF-16.
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
SAMPLE = 4096  # number of bytes from which the kind of file is determined
_SURROGATE = re.compile("[\ud800-\udfff]")
_LONG_RUN = re.compile(rb"[\x80-\xff]{4}")


def read_text(source: str, encoding: str = AUTO) -> str:
    """Return the text of a file, or of standard input for "-", without a byte-order mark.

    Raises DataError if the file does not exist, is empty, or is not text in this encoding.
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
        raise DataError("standard input is closed", "pipe data in, or name a file", file=name_of(STDIN))
    return sys.stdin.buffer


def _read_standard_input() -> bytes:
    try:
        return standard_input().read()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=name_of(STDIN)) from None


def name_of(source: str) -> str:
    """Return the name of a source for messages."""
    return "<stdin>" if source == STDIN else source


def check_is_file(path: Path) -> None:
    """Raise DataError unless `path` exists and is not a folder."""
    if path.is_dir():
        raise DataError("this is a folder; give a file", file=str(path))
    if not path.exists():
        raise DataError("no such file", _neighbours(path), file=str(path))


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a file. Raises DataError if it does not exist or is not readable."""
    check_is_file(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=str(path)) from None


def find_encoding(start: bytes, file: str, encoding: str = AUTO) -> str:
    """Return the codec of a text, from its byte-order mark, the option, or the zeros in its first bytes.

    Raises DataError if the bytes are not text, UsageError for an unknown encoding.
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
    # UTF-16 without a mark: in Western text every other byte is zero.
    high, low = start[::2].count(0), start[1::2].count(0)
    if min(high, low) > 0:
        raise DataError("this is a binary file, not text", file=file)
    return "utf-16-be" if high else "utf-16-le"


def _known(encoding: str) -> str:
    try:
        b"    ".decode(encoding, "ignore")  # codecs that are not for text, such as base64, fail here, too
    except (LookupError, UnicodeError):
        hint = "such as utf-8, cp1252 (Windows, Western Europe), latin-1, utf-16, gb18030 or shift_jis"
        raise UsageError(f"--encoding {encoding!r} is not a text encoding", hint) from None
    return encoding


def undecodable(data: bytes, error: UnicodeDecodeError, file: str, line: int, codec: str) -> DataError:
    """Return the error for bytes that `codec` cannot decode: they have another encoding, or are not text."""
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
    """Return the probable encoding of bytes that are not UTF-8; "" if it is unclear.

    Windows-1252 includes the printable characters of Latin-1. Western European text does not have four
    consecutive bytes outside of ASCII.
    """
    try:
        data.decode("cp1252")
    except UnicodeDecodeError:
        return ""
    return "" if _LONG_RUN.search(data) else "cp1252"


def what_is_wrong(text: str) -> str:
    """Return why a text cannot be used; "" if it can."""
    if not text:
        return "the value is empty"
    if "\0" in text:
        return "the text has a NUL byte"
    if _SURROGATE.search(text):
        return "half a surrogate pair: this is not Unicode text"
    return ""


def _may_be_data(path: Path) -> bool:
    """Return whether a path has the name of a data file, or is a folder with such files that is not a run."""
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
