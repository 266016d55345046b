"""Read a file in any supported format: one function for each kind of content that a task can have."""

from __future__ import annotations

import io
from pathlib import Path

from explora.core.config.concerns import DataConfig
from explora.core.config.registry import TaskRow
from explora.core.data import documents, json_rows, poems, tables, text_files
from explora.core.data.records import Parsed, ParsedLine
from explora.errors import DataError

DELIMITED_SUFFIXES = (".csv", ".tsv")
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")


def read_rows(source: str, row: TaskRow, config: DataConfig) -> Parsed:
    """Yield the rows of a table: CSV, TSV, JSON, or a file of CS224N or MSR."""
    return _table_rows(source, text_files.read_text(source, config.encoding), row, config)


def read_poems(source: str, row: TaskRow, config: DataConfig) -> Parsed:
    """Yield the poems of a text, or of the column `text` of a table."""
    text = text_files.read_text(source, config.encoding)
    if _suffix(source) in DELIMITED_SUFFIXES or _is_json(source, text):
        return map(_as_poem, _table_rows(source, text, row, config))
    return poems.parse_poems(_lines(text), text_files.name_of(source))


def read_documents(source: str, row: TaskRow, config: DataConfig) -> Parsed:
    """Yield the documents of plain text, compressed or not, or the rows of a file named as a table."""
    if _suffix(source) in (*DELIMITED_SUFFIXES, *JSON_SUFFIXES):
        return read_rows(source, row, config)
    numbered = documents.numbered_documents(source, config.encoding)
    return ((line, {"text": text}) for line, text in numbered)


def _table_rows(source: str, text: str, row: TaskRow, config: DataConfig) -> Parsed:
    file = text_files.name_of(source)
    if _is_json(source, text):
        return json_rows.parse_json(text, row, config.columns, file)
    lines = _lines(text)
    msr = config.format == "msr" or tables.is_msr(lines[0])
    delimiter = tables.separator_line(lines[0])
    if delimiter:
        lines[0] = "\n"  # a blank line, so that the other lines keep their numbers
    elif msr:
        delimiter = "\t"
    else:
        delimiter = tables.find_delimiter(lines, row, config.columns)
    return tables.parse_delimited(lines, row, config.columns, file, delimiter=delimiter, quoted=not msr)


def _is_json(source: str, text: str) -> bool:
    suffix = _suffix(source)
    return suffix in JSON_SUFFIXES or (suffix not in DELIMITED_SUFFIXES and json_rows.is_json(text))


def _as_poem(parsed: ParsedLine | DataError) -> ParsedLine | DataError:
    """Convert a poem from a table to the form of a poem from a text."""
    if isinstance(parsed, DataError):
        return parsed
    line, values = parsed
    return line, values | {"text": poems.poem(values["text"].split("\n"))}


def _suffix(source: str) -> str:
    return Path(source).suffix.lower()


def _lines(text: str) -> list[str]:
    return io.StringIO(text, newline="").readlines()
