"""Documents of plain text, read one at a time, so that memory does not grow with the file."""

from __future__ import annotations

import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import BinaryIO, cast

from explora.core.data import json_rows, text_files
from explora.errors import DataError

_GZIP, _XZ = b"\x1f\x8b", b"\xfd7zXZ\x00"
_JSONL_SUFFIXES = {".jsonl", ".ndjson"}
_OBJECT_HINT = 'each line is an object: {"text": "..."}'

Numbered = Iterator[tuple[int, str]]


def stream_documents(path: str | Path, encoding: str = text_files.AUTO) -> Iterator[str]:
    """Yield the documents of a text: groups of consecutive non-blank lines, joined with \n.

    Instead, a .jsonl file has one object with `text` per line, and a .json file may have an array of them. A
    file may be compressed by xz or gzip; "-" is standard input. Memory use is one document, or the whole
    array. Raises DataError with file and line.
    """
    return (text for _, text in numbered_documents(path, encoding))


def numbered_documents(path: str | Path, encoding: str = text_files.AUTO) -> Numbered:
    """Yield each document with the number of the line where it starts."""
    file = text_files.name_of(str(path))
    lines = _lines(str(path), file, encoding)
    suffixes = {suffix.lower() for suffix in Path(path).suffixes}
    if ".json" in suffixes:
        text = "\n".join(line for _, line in lines)
        documents = _texts(json_rows.numbered_objects(text, file), file)
    elif _JSONL_SUFFIXES & suffixes:
        documents = _texts((item for each in lines for item in json_rows.object_of_line(*each, file)), file)
    else:
        documents = _runs(lines)
    found = False
    for numbered in documents:
        found = True
        yield numbered
    if not found:
        raise DataError("the file is empty", file=file)


def _runs(lines: Numbered) -> Numbered:
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


def _texts(objects: Iterator[json_rows.Item], file: str) -> Numbered:
    for number, item in objects:
        if isinstance(item, DataError):
            raise item
        text = item.get("text")
        if not isinstance(text, str):
            raise DataError("a string is expected", _OBJECT_HINT, file=file, line=number, column="text")
        if wrong := text_files.what_is_wrong(text.strip()):
            raise DataError(wrong, _OBJECT_HINT, file=file, line=number, column="text")
        yield number, text.strip("\r\n")


def _lines(source: str, file: str, encoding: str) -> Numbered:
    """Yield the lines of a text, compressed or not, with their numbers and without line ends."""
    try:
        with _open(source) as stream:
            unpacked = _unpacked(stream)
            codec = text_files.find_encoding(unpacked.peek(text_files.SAMPLE), file, encoding)
            for number, line in _decoded(unpacked, file, codec):
                if "\0" in line:
                    raise DataError("a NUL byte in the text", file=file, line=number)
                yield number, line.removeprefix("\ufeff") if number == 1 else line
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"the compressed file is damaged or cut off: {error}", file=file) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=file) from None


def _decoded(stream: io.BufferedReader, file: str, codec: str) -> Numbered:
    """Yield decoded lines. In UTF-16 and UTF-32, the codec must find the line ends."""
    if codec.lower().startswith(("utf-16", "utf_16", "utf16", "utf-32", "utf_32", "utf32")):
        yield from _lines_of_wide_characters(stream, file, codec)
        return
    for number, raw in enumerate(stream, 1):
        try:
            yield number, raw.decode(codec).rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise text_files.undecodable(raw, error, file, number, codec) from None


def _lines_of_wide_characters(stream: io.BufferedReader, file: str, codec: str) -> Numbered:
    number = 0
    try:
        for number, line in enumerate(io.TextIOWrapper(stream, codec), 1):
            yield number, line.rstrip("\n")
    except UnicodeError as error:
        where = "the file is damaged or cut off near this line"
        raise DataError(f"{where}: {error}", file=file, line=number + 1) from None


def _open(source: str) -> AbstractContextManager[io.BufferedReader]:
    if source == text_files.STDIN:
        return nullcontext(cast(io.BufferedReader, text_files.standard_input()))
    text_files.check_is_file(Path(source))
    return Path(source).open("rb")


def _unpacked(stream: io.BufferedReader) -> io.BufferedReader:
    """Return the decompressed stream; its first bytes decide the format, whatever the file's name."""
    start = stream.peek(len(_XZ))
    if start.startswith(_GZIP):
        return io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(fileobj=cast(BinaryIO, stream))))
    if start.startswith(_XZ):
        return io.BufferedReader(cast(io.RawIOBase, lzma.LZMAFile(stream)))
    return stream
