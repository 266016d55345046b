"""Poems as text: numbered ones below a header, as in CS224N's sonnets, or poems between blank lines."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from itertools import pairwise

from explora.core.data.records import SKIP_HINT, Parsed
from explora.core.data.text_files import what_is_wrong
from explora.errors import DataError

_ROMAN = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
_NUMBER = re.compile(r"(\d{1,4}|[IVXLCDM]+)\.?")


def parse_poems(lines: list[str], file: str) -> Parsed:
    """Yield the poems of a text as rows with `id` and `text`, and a DataError for each bad one.

    If ascending numbers stand alone on lines, each number starts a poem, and the text before the first is a
    header. The poem's id is its number, and its line is the line of the number. Otherwise a poem is a group
    of consecutive non-blank lines, and its id is the number of its first line.
    """
    numbers = _numbers(lines)
    starts = list(numbers) or _first_lines(lines)
    for start, end in pairwise([*starts, len(lines)]):
        name = numbers.get(start, "")
        text = poem(lines[start + 1 if name else start : end])
        wrong = what_is_wrong(text)
        if wrong:
            what = f"poem {name} has no lines" if name and not text else wrong
            yield DataError(what, SKIP_HINT, file=file, line=start + 1)
        else:
            yield start + 1, {"id": name, "text": text}


def poem(lines: Iterable[str]) -> str:
    """Join verse lines with \n, without blank lines and without common indentation."""
    return textwrap.dedent("\n".join(line.rstrip() for line in lines if line.strip())).strip()


def _first_lines(lines: list[str]) -> list[int]:
    blank = [True, *(not line.strip() for line in lines)]
    return [i for i, (before, here) in enumerate(pairwise(blank)) if before and not here]


def _numbers(lines: list[str]) -> dict[int, str]:
    """Return the numbers of the poems by the index of their line; empty if the poems are not numbered.

    A single number counts only at the top, and several only if they ascend. Otherwise the title "1914" or the
    stanza "II" of one poem would make all poems before it a header.
    """
    found = {
        i: lines[i].strip().rstrip(".") for i in _first_lines(lines) if _NUMBER.fullmatch(lines[i].strip())
    }
    values = [_value(number) for number in found.values()]
    ascending = all(low < high for low, high in pairwise(values))
    on_top = not any(line.strip() for line in lines[: min(found, default=0)])
    return found if ascending and (len(found) > 1 or on_top) else {}


def _value(number: str) -> int:
    if number.isdecimal():
        return int(number)
    digits = [_ROMAN[sign] for sign in number]
    return sum(-low if low < high else low for low, high in pairwise([*digits, 0]))
