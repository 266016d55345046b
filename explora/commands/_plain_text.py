"""Warn of a table, such as a CSV file, that a task is about to read as plain text."""

from __future__ import annotations

from pathlib import Path

from explora import console
from explora.core.config.concerns import DataConfig
from explora.core.config.registry import TASKS
from explora.core.data.readers import DELIMITED_SUFFIXES


def warn_if_tables(task: str, data: DataConfig) -> None:
    """Warn of each file of a language-modelling task whose name is that of a table."""
    if not TASKS[task].stream:
        return
    for name in (data.data, data.dev):
        if name is not None and Path(name).suffix.lower() in DELIMITED_SUFFIXES:
            console.warn(
                f"{name} is read as plain text, with its header, separators and all columns. To use one "
                f'column, write it to a file of JSON lines, {{"text": ...}}, and give --data FILE.jsonl'
            )
