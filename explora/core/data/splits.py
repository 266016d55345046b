"""Rows of a task's files, with the file and line of each, and the file of each split."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.resources
import re
from dataclasses import dataclass
from pathlib import Path

from explora.core.config.concerns import DataConfig
from explora.core.config.registry import TASKS, load_implementation
from explora.core.data import known_datasets, text_files
from explora.core.data.labels import is_missing
from explora.core.data.readers import DELIMITED_SUFFIXES, JSON_SUFFIXES
from explora.core.data.records import ID, Parsed
from explora.errors import DataError, UsageError, did_you_mean

SPLITS = ("train", "dev", "test")
DEV_SHARE = 0.1

_SUFFIXES = (*DELIMITED_SUFFIXES, *JSON_SUFFIXES, ".txt", ".xz", ".gz")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One example: its place in a file and its values by canonical column; the label may be absent."""

    file: str
    line: int
    id: str
    values: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Table:
    """The rows of a file or a split, and a message for each bad row that was skipped."""

    rows: list[Row]
    skipped: list[str]


@dataclass(frozen=True, kw_only=True)
class SplitFile:
    """The file of a split; not `whole` if train and dev both come from it.

    `pinned` files belong to a data set known by name, so the user cannot correct them.
    """

    file: str
    whole: bool = True
    pinned: bool = False


def read_table(source: str, task: str, config: DataConfig) -> Table:
    """Read the rows of `task` in a file, or in standard input for "-".

    A file without any label is for prediction, and its rows have no labels. In any other file, a row without
    a label is a bad row. Raises DataError for a file that cannot be read and for the first bad row; with
    `config.skip_bad`, bad rows are skipped and reported in `skipped`.
    """
    file, row = text_files.name_of(source), TASKS[task]
    parsed_lines: Parsed = load_implementation(row.reader)(source, row, config)
    rows, skipped = [], []
    for parsed in parsed_lines:
        if not isinstance(parsed, DataError):
            line, values = parsed
            name = values.pop(ID, "") or str(line)
            rows.append(Row(file=file, line=line, id=name, values=values))
        elif config.skip_bad:
            skipped.append(parsed.message)
        else:
            raise parsed
    if not rows:
        raise DataError(
            "no rows" if not skipped else f"no usable row; the first problem: {skipped[0]}", file=file
        )
    table = Table(rows=rows, skipped=skipped)
    return _with_labels(table, row.label, skip_bad=config.skip_bad) if row.label else table


def _with_labels(table: Table, label: str, *, skip_bad: bool) -> Table:
    """Return the table without rows that lack a label, or without labels if all rows lack one."""
    bad = [row for row in table.rows if is_missing(row.values.get(label, ""))]
    if not bad:
        return table
    if len(bad) == len(table.rows):
        for row in bad:
            row.values.pop(label, None)
        return table
    if not skip_bad:
        raise _no_label(bad[0], label)
    lines = {row.line for row in bad}
    skipped = [*table.skipped, *(_no_label(row, label).message for row in bad)]
    return Table(rows=[row for row in table.rows if row.line not in lines], skipped=skipped)


def _no_label(row: Row, label: str) -> DataError:
    found = row.values.get(label, "")
    what = f"{found!r} is a missing value, not a label" if found else "the label is empty"
    hint = "fill it in, or skip such rows with --skip-bad"
    if found in ("None", "NA"):
        hint += f"; to use a class of this name, write {found.lower()}"
    return DataError(what, hint, file=row.file, line=row.line, column=label)


def load_split(task: str, config: DataConfig, split: str, seed: int) -> Table:
    """Read the rows of a split: "train", "dev" or "test".

    If train and dev share a file, the dev set is a tenth of its rows, at least one, chosen by `seed`; both
    keep the file's order. Bad rows of a data set known by name are always skipped and reported. Raises
    DataError if the split has no file, and for train rows without labels.
    """
    found = find_split(task, config, split)
    if found.pinned:  # Quora's file has three empty questions
        config = dataclasses.replace(config, skip_bad=True)
    table = read_table(found.file, task, config)
    if not found.whole:
        table = Table(rows=_part(table.rows, split, seed, found.file), skipped=table.skipped)
    label = TASKS[task].label
    if split == "train" and label and label not in table.rows[0].values:
        hint = f"name the column of the labels: --columns {label}=NAME"
        raise DataError("no row has a label, so there is nothing to learn", hint, file=found.file)
    return table


def find_split(task: str, config: DataConfig, split: str) -> SplitFile:
    """Return the file of a split of `config`.

    A `config.data` without a path separator is first looked up as a known name (known_datasets.py), then as a
    path: `./quora` is the folder, `quora` the data set. Without `config.data`, it is the package's sample
    data. Raises DataError.
    """
    if config.data == text_files.STDIN:
        raise UsageError(
            "--data -: a run reads its rows several times, and standard input can be read only once",
            "write the rows to a file; explora eval TASK --data - can score them",
        )
    if split == "dev" and config.dev is not None:
        return SplitFile(file=config.dev)
    path, pinned = _root(task, config.data)
    if path.is_dir():
        return SplitFile(file=str(_file_of(path, task, split)), pinned=pinned)
    if not path.exists() and config.data == path.stem:  # one word, without separator or suffix
        raise DataError(
            f"no data set, file or folder is called {config.data!r}"
            f"{did_you_mean(config.data, known_datasets.SOURCES)}",
            f"known data sets: {', '.join(known_datasets.SOURCES)}; give files and folders by their path",
        )
    text_files.check_is_file(path)
    if split == "test":
        hint = f"score the whole file with explora eval {task} --data {path}"
        raise DataError("one file has a train and a dev split, but no test split", hint, file=str(path))
    return SplitFile(file=str(path), whole=config.dev is not None, pinned=pinned)


def _root(task: str, data: str | None) -> tuple[Path, bool]:
    """Return the folder or file of the data, and whether it was downloaded and is pinned."""
    if data is None:
        return TASKS[task].samples or _packaged_samples(task), False
    if data in known_datasets.SOURCES:
        located = known_datasets.locate(data)
        return located.path, located.fetched
    return Path(data), False


def _packaged_samples(task: str) -> Path:
    return Path(str(importlib.resources.files("explora"))) / "assets" / "samples" / task


def _file_of(folder: Path, task: str, split: str) -> Path:
    """Return the file of a split: by the task's own names, else the one file named after the split.

    The name of the split must be a word of the file's name or, if there is no such file, a part of it.
    """
    files = (item for item in folder.iterdir() if item.is_file() and not item.name.startswith("."))
    names = sorted(item.name for item in files if item.suffix.lower() in _SUFFIXES)
    if own := _own_name(task, split, names):
        return folder / own
    word = re.compile(rf"(?<![a-z]){split}(?![a-z])", re.IGNORECASE)
    found = [n for n in names if word.search(n)] or [n for n in names if split in n.lower()]
    if len(found) == 1:
        return folder / found[0]
    there = ", ".join(found or names) or "no data file"
    problem = f"one file with {split!r} in its name is expected, {len(found)} found; there are: {there}"
    hint = f"explora eval {task} --data FILE" if split == "test" else "--data FILE --dev FILE"
    raise DataError(problem, f"name the file: {hint}", file=str(folder))


def _own_name(task: str, split: str, names: list[str]) -> str | None:
    """Return the file with one of the task's own names for a split, if the folder has its train file."""
    own = TASKS[task].split_files
    if not any(name in names for name in own.get("train", ())):
        return None
    return next((name for name in own.get(split, ()) if name in names), None)


def _part(rows: list[Row], split: str, seed: int, file: str) -> list[Row]:
    if len(rows) < 2:
        raise DataError("one row cannot be both train and dev", "name a dev file: --dev FILE", file=file)
    dev = dev_indices(len(rows), seed)
    return [row for index, row in enumerate(rows) if (index in dev) == (split == "dev")]


def dev_indices(count: int, seed: int) -> frozenset[int]:
    """Choose a tenth of `count` rows, at least one, for the dev set; it depends on the seed only."""
    ranked = sorted(range(count), key=lambda index: hashlib.sha256(f"{seed}:{index}".encode()).digest())
    return frozenset(ranked[: max(1, round(count * DEV_SHARE))])
