"""Names of cells: short, safe as folder names, and different from each other on every file system."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePath

LONGEST_VALUE = 24  # characters; a number replaces a longer value
SHORT = {"rank": "r", "alpha": "a", "learning_rate": "lr", "batch_size": "b", "epochs": "e", "seed": "s"}


def name_cells(methods: Sequence[str], varied: Sequence[Mapping[str, str]]) -> list[str]:
    """Return `lora-r8-lr0.001-s11711` for each cell: its method, then its varied settings, the seed last.

    `varied` holds the settings of each cell that differ between cells, as option text.
    """
    settings = {name: None for each in varied for name in each if name != "method"}
    ordered = sorted(settings, key=lambda name: name == "seed")
    texts = {name: _short_texts([each[name] for each in varied if name in each]) for name in ordered}
    names = []
    for method, each in zip(methods, varied, strict=True):
        parts = [_prefix(name) + texts[name][each[name]] for name in ordered if name in each]
        names.append("-".join([method, *parts]))
    return _numbered(names)


def _prefix(setting: str) -> str:
    return SHORT.get(setting, f"{_plain(setting)}=")


def _short_texts(values: Sequence[str]) -> dict[str, str]:
    """Return a safe text for each value: the value itself, the name of a file, or a number from 1."""
    distinct = list(dict.fromkeys(values))
    short = [_plain(PurePath(value).name if "/" in value else value) for value in distinct]
    are_different = len({text.lower() for text in short}) == len(distinct)
    if not are_different or any(not 0 < len(text) <= LONGEST_VALUE for text in short):
        short = [str(number) for number in range(1, len(distinct) + 1)]
    return dict(zip(distinct, short, strict=True))


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", text).strip("._")


def _numbered(names: Sequence[str]) -> list[str]:
    """Number names that are equal, because learning rates may differ in digits that are not shown."""
    total, seen = Counter(names), Counter[str]()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(f"{name}-{seen[name]}" if total[name] > 1 else name)
    return unique
