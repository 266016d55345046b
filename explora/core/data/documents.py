"""Documents of plain text, one at a time, so that memory does not grow with the file."""

from __future__ import annotations

import gzip
import json
import lzma
import sys
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, cast

from explora.core.data import text_files
from explora.errors import DataError

_GZIP, _XZ = b"\x1f\x8b", b"\xfd7zXZ\x00"
_PEEK = 4096
_JSONL_SUFFIXES = {".jsonl", ".ndjson"}
_OBJECT_HINT = 'each line is an object: {"text": "..."}'


def stream_documents(path: str | Path) -> Iterator[str]:
    r"""Yield the documents of a text: runs of lines that are not blank, joined with \n.

    A file named .jsonl has one object with `text` a line instead. Both may be packed by xz or gzip; "-"
    is standard input. Memory holds one document. Raises DataError with file and line.
    """
    return (text for _, text in numbered_documents(path))


def numbered_documents(path: str | Path) -> Iterator[tuple[int, str]]:
    """Yield each document with the number of the line where it starts."""
    file = text_files.name_of(str(path))
    lines = _lines(str(path), file)
    is_jsonl = bool(_JSONL_SUFFIXES & {suffix.lower() for suffix in Path(path).suffixes})
    found = False
    for numbered in _objects(lines, file) if is_jsonl else _runs(lines):
        found = True
        yield numbered
    if not found:
        raise DataError("the file is empty", file=file)


def _runs(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    start, run = 0, list[str]()
    for number, line in lines:
        if line.strip():
            start = start if run else number
            run.append(line)
        elif run:
            yield start, "\n".join(run)
            run = []
    if run:
        yield start, "\n".join(run)


def _objects(lines: Iterator[tuple[int, str]], file: str) -> Iterator[tuple[int, str]]:
    for number, line in lines:
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"invalid JSON: {error}", file=file, line=number) from None
        text = value.get("text") if isinstance(value, dict) else None
        if not isinstance(text, str):
            raise DataError("a string is expected", _OBJECT_HINT, file=file, line=number, column="text")
        if wrong := text_files.what_is_wrong(text.strip()):
            raise DataError(wrong, _OBJECT_HINT, file=file, line=number, column="text")
        yield number, text.strip("\r\n")


def _lines(source: str, file: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text, packed or not, with their numbers and without their ends."""
    try:
        with _open(source, file) as stream:
            for number, raw in enumerate(_unpacked(stream), 1):
                if number == 1:
                    text_files.refuse_binary(raw[:_PEEK], file)
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                yield number, _decode(raw, file, number)
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"the packed file is damaged or cut off: {error}", file=file) from None


def _decode(raw: bytes, file: str, number: int) -> str:
    if b"\0" in raw:
        raise DataError("a NUL byte in the text", file=file, line=number)
    try:
        return raw.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise text_files.not_utf8(raw, error, file, number) from None


def _open(source: str, file: str) -> AbstractContextManager[BufferedReader]:
    if source == text_files.STDIN:
        return nullcontext(cast(BufferedReader, sys.stdin.buffer))
    text_files.check_is_file(Path(source))
    try:
        return Path(source).open("rb")
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=file) from None


def _unpacked(stream: BufferedReader) -> BinaryIO:
    """Return the unpacked stream; the first bytes tell how it is packed, whatever its name."""
    start = stream.peek(len(_XZ))
    if start.startswith(_GZIP):
        return cast(BinaryIO, gzip.GzipFile(fileobj=stream))
    if start.startswith(_XZ):
        return cast(BinaryIO, lzma.LZMAFile(stream))
    return cast(BinaryIO, stream)
