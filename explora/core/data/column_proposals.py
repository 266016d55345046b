"""Propose which columns of a file are the task's, from their names and their first values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from explora.errors import nearest

SAMPLE = 100  # rows whose values are looked at
Sample = Mapping[str, Sequence[str]]  # the first values of each column


def propose(
    lacking: Sequence[str], asked: Mapping[str, str], free: Sample, label: str | None
) -> dict[str, str]:
    """Return one of the `free` columns of a file for each `lacking` column of a task that is clear.

    `asked` are wrong names that the user gave, by the task's column: the nearest name is proposed. The others
    are proposed by their values, if as many columns are free as are lacking.
    """
    if not all(map(_can_be_named, free)):
        return {}
    near = {ours: nearest(theirs, free) for ours, theirs in asked.items()}
    named = {ours: name for ours, name in near.items() if name is not None}
    if len(set(named.values())) < len(named):
        return {}
    left = {name: values for name, values in free.items() if name not in named.values()}
    return named | _by_values([ours for ours in lacking if ours not in named], left, label)


def _by_values(lacking: Sequence[str], left: Sample, label: str | None) -> dict[str, str]:
    """Return the label's column and the texts, in the file's order, if their values tell them apart."""
    labels = [name for name, values in left.items() if _are_labels(values)]
    texts = [name for name in left if name not in labels]
    names = [ours for ours in lacking if ours != label]
    if len(texts) != len(names) or len(labels) != len(lacking) - len(names):
        return {}
    return dict(zip(names, texts, strict=True)) | ({label: labels[0]} if label and labels else {})


def _are_labels(values: Sequence[str]) -> bool:
    """Return whether values are integers, or at most half as many distinct ones as rows."""
    return all(value.strip().isdecimal() for value in values) or 2 * len({*values}) <= len(values)


def _can_be_named(name: str) -> bool:
    """Return whether --columns can name a column. A number is probably a value: the file has no header."""
    return bool(name) and not name.isdecimal() and not {",", "="} & {*name}
