"""Documents: runs of lines or JSON Lines, packed or not, in flat memory."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import tracemalloc
from itertools import islice
from pathlib import Path

import pytest

from explora.core.data.documents import numbered_documents, stream_documents
from explora.errors import DataError

TEXT = "\ufeffFirst line\n  second\r\n\n \n\nNext document\n\u2028still it\n"
DOCUMENTS = ["First line\n  second", "Next document\n\u2028still it"]
JSONL = "".join(json.dumps({"text": text, "id": 1}) + "\n\n" for text in DOCUMENTS)
PACKERS = {"": lambda data: data, ".gz": gzip.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize(("name", "content"), [("a.txt", TEXT), ("a.jsonl", JSONL)])
def test_every_format_gives_the_same_documents(tmp_path: Path, packing: str, name: str, content: str) -> None:
    path = tmp_path / (name + packing)
    path.write_bytes(PACKERS[packing](content.encode()))
    assert list(stream_documents(path)) == DOCUMENTS
    assert list(stream_documents(str(path))) == DOCUMENTS


def test_packing_is_told_by_the_bytes_and_streams_may_be_joined(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(lzma.compress(b"one\n\ntw") + lzma.compress(b"o\n"))
    assert list(stream_documents(path)) == ["one", "two"]


def test_documents_know_their_first_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(TEXT, newline="")
    assert [line for line, _ in numbered_documents(path)] == [1, 6]


def test_stdin_and_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdin:
        buffer = io.BufferedReader(io.BytesIO(gzip.compress(TEXT.encode())))

    monkeypatch.setattr("sys.stdin", Stdin)
    assert list(stream_documents("-")) == DOCUMENTS
    assert not Stdin.buffer.closed
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    script = "import sys; open(sys.argv[1], 'w').write('one\\n\\ntwo')"
    with subprocess.Popen([sys.executable, "-c", script, str(fifo)]):
        assert list(stream_documents(fifo)) == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "line", "message"),
    [
        ("a.txt", b"", 0, "the file is empty"),
        ("a.txt", b"\xef\xbb\xbf\n \n", 0, "the file is empty"),
        ("a.txt", b"one\n\ncaf\xe9\n", 3, "byte 0xE9 is not UTF-8"),
        ("a.txt", b"one\ntw\0o\n", 2, "a NUL byte"),
        ("a.txt", b"PK\x03\x04", 0, "a zip file"),
        ("a.txt.xz", lzma.compress(b"one\n" * 9999)[:-20], 0, "damaged or cut off"),
        ("a.txt.gz", gzip.compress(b"one\n" * 9999, mtime=0)[:-20], 0, "damaged or cut off"),
        ("a.txt.gz", b"\x1f\x8b nonsense", 0, "damaged or cut off"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "x"\n', 2, "invalid JSON"),
        ("a.jsonl", b'{"text": "x"}\n{"txt": "x"}\n', 2, "a string is expected"),
        ("a.jsonl", b'{"text": "x"}\n{"text": 3}\n', 2, "a string is expected"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "  "}\n', 2, "the value is empty"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "\\ud800"}\n', 2, "half a surrogate pair"),
        ("a.jsonl", b'{"text": "x"}\n["x"]\n', 2, "an object {...} is expected"),
    ],
)
def test_what_can_be_wrong(tmp_path: Path, name: str, content: bytes, line: int, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(stream_documents(path))
    assert message in caught.value.message
    assert caught.value.file == str(path)
    if "damaged" not in message:
        assert caught.value.line == line


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "cp1252"])
def test_other_encodings_are_read(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.txt.xz"
    path.write_bytes(lzma.compress("one “café”\r\nline\n\ntwo\n".encode(encoding)))
    given = "auto" if encoding.startswith("utf") else encoding
    assert list(numbered_documents(path, given)) == [(1, "one “café”\nline"), (4, "two")]


def test_a_json_array_has_a_document_in_each_object(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[\n{"text": "one\\n\\nstill one"},\n{"text": "two"}\n]')
    assert list(numbered_documents(path)) == [(2, "one\n\nstill one"), (3, "two")]


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        list(stream_documents(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="a folder"):
        list(stream_documents(tmp_path))


def test_memory_stays_flat(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.xz"
    path.write_bytes(lzma.compress(b"a line of a document\nand another one\n\n" * 100_000, preset=0))
    tracemalloc.start()
    count = sum(1 for _ in stream_documents(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 100_000
    assert peak < 1 << 20  # the text is 4 MB


CORPORA = Path(os.environ.get("EXPLORA_DATA", "/nonexistent")).parent / "corpora"


@pytest.mark.skipif(not CORPORA.is_dir(), reason="no folder corpora beside EXPLORA_DATA")
def test_the_pretraining_corpora() -> None:
    for path in sorted(CORPORA.glob("*.xz")):
        documents = list(islice(stream_documents(path), 50))
        assert all(text.strip() for text in documents), path
