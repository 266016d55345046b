"""Read a file in whichever format it has: one function for each kind of content that a task can have."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

from explora.core.config.concerns import DataConfig
from explora.core.config.registry import TaskRow
from explora.core.data import documents, poems, tables, text_files
from explora.core.data.tables import ParsedLine
from explora.errors import DataError

DELIMITED_SUFFIXES = (".csv", ".tsv")
JSONL_SUFFIXES = (".jsonl", ".ndjson", ".json")

Parsed = Iterator[ParsedLine | DataError]


def read_rows(source: str, row: TaskRow, config: DataConfig) -> Parsed:
    """Yield the rows of a table: CSV, TSV, JSON Lines, or a file of CS224N or MSR."""
    return _table_rows(source, text_files.read_text(source), row, config)


def read_poems(source: str, row: TaskRow, config: DataConfig) -> Parsed:
    """Yield the poems of a text, or of the column `text` of a table."""
    text = text_files.read_text(source)
    if _suffix(source) in DELIMITED_SUFFIXES or _is_jsonl(source, text):
        return map(_as_poem, _table_rows(source, text, row, config))
    return poems.parse_poems(_lines(text), text_files.name_of(source))


def read_documents(source: str, row: TaskRow, config: DataConfig) -> Parsed:
    """Yield the documents of plain text, which may be compressed, or the rows of a file named as a table."""
    if _suffix(source) in (*DELIMITED_SUFFIXES, *JSONL_SUFFIXES):
        return read_rows(source, row, config)
    return ((line, {"text": text}) for line, text in documents.numbered_documents(source))


def _table_rows(source: str, text: str, row: TaskRow, config: DataConfig) -> Parsed:
    file, lines = text_files.name_of(source), _lines(text)
    if _is_jsonl(source, text):
        return tables.parse_jsonl(lines, row, config.columns, file)
    msr = config.format == "msr" or tables.is_msr(lines[0])
    delimiter = "\t" if msr or _suffix(source) == ".tsv" else tables.delimiter_of(lines)
    return tables.parse_delimited(lines, row, config.columns, file, delimiter=delimiter, quoted=not msr)


def _is_jsonl(source: str, text: str) -> bool:
    suffix = _suffix(source)
    return suffix in JSONL_SUFFIXES or (suffix not in DELIMITED_SUFFIXES and tables.is_jsonl(text))


def _as_poem(parsed: ParsedLine | DataError) -> ParsedLine | DataError:
    """Give a poem of a table the form of one of a text."""
    if isinstance(parsed, DataError):
        return parsed
    line, values = parsed
    return line, values | {"text": poems.poem(values["text"].split("\n"))}


def _suffix(source: str) -> str:
    return Path(source).suffix.lower()


def _lines(text: str) -> list[str]:
    return io.StringIO(text, newline="").readlines()
