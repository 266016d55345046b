"""Match the columns of a file with those of a task: by name, by alias or by position."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence, Sized
from types import MappingProxyType

from explora.core.config.registry import TaskRow
from explora.core.data.column_proposals import Sample, propose
from explora.core.data.records import ID
from explora.errors import DataError, UsageError, did_you_mean

Columns = dict[str, str]  # the task's column -> its name in the file
NAME = "NAME"  # stands for a name in a hint


class RecordedColumns(dict[str, str]):
    """The column mapping of an earlier training: a pair applies only if the file has its column."""


def match_columns(
    there: Sequence[str],
    row: TaskRow,
    given: Mapping[str, str],
    file: str,
    *,
    by_position: bool,
    sample: Sample = MappingProxyType({}),
) -> Columns:
    """Find the columns of a task among those of a file.

    The task's columns and those in `given` are required; the label and the id are optional. A canonical name
    takes precedence over an alias. With `by_position`, `given` may refer to a column by its number, from 1.
    Raises one DataError for all missing columns, with the names that the `sample` of rows suggests. Raises
    UsageError if `given` names a column that the task does not have.
    """
    named, is_recorded = orient(given, row), isinstance(given, RecordedColumns)
    required = {*row.columns, *(() if is_recorded else named)}
    folded = {name.casefold(): name for name in reversed(there)}
    if by_position and not is_recorded:
        folded = {str(number): name for number, name in enumerate(there, 1)} | folded
    found: Columns = {}
    missing: Columns = {}
    for canonical in _wanted(row):
        names = [named[canonical]] if canonical in named else []
        if not names or is_recorded:
            names += [canonical, *(alias for alias, meant in row.aliases.items() if meant == canonical)]
        match = next((folded[name.casefold()] for name in names if name.casefold() in folded), None)
        if match is not None:
            found[canonical] = match
        elif canonical in required:
            missing[canonical] = names[0]
    if missing:
        proposed = _propose(missing, found, named, row, {name: sample.get(name, ()) for name in there})
        raise _no_columns(missing, proposed, there, row, file, may_lack_header=by_position and not found)
    for name in found.values():
        if there.count(name) > 1:
            raise DataError(f"{there.count(name)} columns have this name", file=file, line=1, column=name)
    return found


def orient(given: Mapping[str, str], row: TaskRow) -> Columns:
    """Return `given` as a mapping from the task's columns, whichever side of a pair they are on.

    Raises UsageError for a pair without a column of the task.
    """
    wanted = _wanted(row)
    oriented: Columns = {}
    for left, right in given.items():
        ours, theirs = (right, left) if left not in wanted and right in wanted else (left, right)
        if ours not in wanted:
            raise UsageError(
                f"--columns {left}={right}: the task has no column {left!r}{did_you_mean(left, wanted)} "
                f"(it has {', '.join(wanted)})",
                f"the task's column comes first: --columns {wanted[0]}=NAME",
            )
        if ours in oriented:
            raise UsageError(f"--columns names {ours!r} twice")
        oriented[ours] = theirs
    return oriented


def count_known(names: Sequence[str], row: TaskRow, given: Mapping[str, str]) -> int:
    """Return how many of `names` are columns of the task: its own names, aliases, or names in `given`."""
    mapped = (name for name in orient(given, row).values() if not name.isdecimal())
    known = {name.casefold() for name in (*_wanted(row), *row.aliases, *mapped)}
    return len(known & {name.strip().casefold() for name in names})


def numbered_header(first: Sequence[str], row: TaskRow, given: Mapping[str, str]) -> list[str] | None:
    """Return column numbers as names, if `given` has only positions and `first` is a row of data.

    A first line with a column name of the task, or with all these numbers, is a header: the result is None.
    """
    numbers = orient(given, row).values()
    by_number = bool(given) and all(number.isdecimal() for number in numbers)
    if not by_number or count_known(first, row, given) or set(numbers) <= set(first):
        return None
    return [str(number) for number in range(1, len(first) + 1)]


def _wanted(row: TaskRow) -> list[str]:
    return [*row.columns, *([row.label] if row.label else []), ID]


def _propose(missing: Columns, found: Columns, named: Columns, row: TaskRow, sample: Sample) -> Columns:
    """Return the columns to name: those that the user named rightly, and proposals or NAME for the others."""
    kept = {ours: theirs for ours, theirs in found.items() if ours in named}
    lacking = [*missing, *_missing_label(missing, found, row)]
    asked = {ours: theirs for ours, theirs in missing.items() if ours in named}
    free = {name: values for name, values in sample.items() if name not in found.values()}
    return kept | dict.fromkeys(lacking, NAME) | propose(lacking, asked, free, row.label)


def _no_columns(
    missing: Columns,
    proposed: Columns,
    there: Sequence[str],
    row: TaskRow,
    file: str,
    *,
    may_lack_header: bool,
) -> DataError:
    names = list(missing.values())
    what = f"column {names[0]!r}" if len(names) == 1 else f"columns {', '.join(map(repr, names))}"
    near = did_you_mean(names[0], there) if len(names) == 1 else ""
    shown = [repr(name[:40]) for name in there[:12]]
    pairs = ",".join(f"{ours}={theirs}" for ours, theirs in proposed.items())
    hint = f"name {_them(proposed)}: --columns {shlex.quote(pairs)}"
    if row.label not in missing and proposed.get(row.label or "") == NAME:
        hint += f" (leave {row.label} out if the rows have no labels)"
    if may_lack_header:
        shown = [f"{number} {name}" for number, name in enumerate(shown, 1)]
        hint += f"; if line 1 is a row of data, give positions: --columns {_positions(there, row)}"
    return DataError(f"no {what}{near} (there are {', '.join(shown)})", hint, file=file, line=1)


def _missing_label(missing: Columns, found: Columns, row: TaskRow) -> list[str]:
    """Return the label's column if the file has none of its names, because training would need it next."""
    return [row.label] if row.label and row.label not in {*missing, *found} else []


def _them(names: Sized) -> str:
    return "it" if len(names) == 1 else "them"


def _positions(there: Sequence[str], row: TaskRow) -> str:
    """Return an example of a mapping by position: the task's columns in their usual order."""
    wanted = _wanted(row)[:-1]
    if len(there) < len(wanted):
        wanted = list(row.columns)
    return ",".join(f"{name}={number}" for number, name in enumerate(wanted, 1))
