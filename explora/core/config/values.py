"""Conversion of settings to text and back, for settings that are more than one number or word."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby
from typing import Any

from explora.core.config.registry import TARGETS, Shape
from explora.errors import UsageError, did_you_mean

SIZES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
SHAPE_FIELDS = {
    "layers": "n_layer",
    "heads": "n_head",
    "width": "n_embd",
    "context": "n_positions",
    "vocabulary": "vocab_size",
}


class Blocks(tuple[int, ...]):
    """Numbers of a model's blocks, from 0: sorted and distinct. The text form is `0-3,7`."""

    __slots__ = ()

    def __new__(cls, numbers: Iterable[int]) -> Blocks:
        """Sort the numbers and remove duplicates."""
        return super().__new__(cls, sorted(set(numbers)))

    def __str__(self) -> str:
        """Return ranges, both ends included, separated by commas."""
        if not self:
            return "none"
        runs = [
            [number for _, number in run]
            for _, run in groupby(enumerate(self), lambda pair: pair[1] - pair[0])
        ]
        return ",".join(f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)

    @classmethod
    def parse(cls, text: str) -> Blocks:
        """Parse `6-11`, `6` or `0,2,5-7`, both ends included. Raises UsageError."""
        return cls(number for part in text.split(",") for number in _block_range(part, text))

    @classmethod
    def from_json(cls, value: Any, where: str) -> Blocks:
        """Parse the text form, or the pair `[first, last]` of files before format 2. Raises UsageError."""
        if isinstance(value, str):
            return cls.parse(value)
        is_pair = isinstance(value, (list, tuple)) and len(value) == 2
        if is_pair and all(type(number) is int for number in value) and 0 <= value[0] <= value[1]:
            return cls(range(value[0], value[1] + 1))
        raise UsageError(f"{where} should be blocks like '0-3,7', not {value!r}")


def _block_range(part: str, text: str) -> range:
    match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
    if match is None:
        raise UsageError(f"--layers {text!r} is not a list of blocks", "--layers 6-11, or --layers 0,2,11")
    first = int(match[1])
    last = int(match[2] or first)
    if last < first:
        raise UsageError(
            f"--layers {text!r}: {part.strip()} ends before it starts", f"--layers {last}-{first}"
        )
    return range(first, last + 1)


def parse_targets(text: str) -> tuple[str, ...]:
    """Parse `query,attn_out` to ("query", "attn-out"). Validation refuses unknown targets later."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError("--targets needs at least one target", f"--targets {','.join(TARGETS)}")
    return tuple(name if name in TARGETS else name.replace("_", "-") for name in names)


def parse_columns(text: str) -> dict[str, str]:
    """Parse `label=is_dup,sentence1=q1` to {"label": "is_dup", "sentence1": "q1"} (ours: the file's)."""
    columns: dict[str, str] = {}
    for part in text.split(","):
        ours, equals, theirs = (piece.strip() for piece in part.partition("="))
        if not (ours and equals and theirs):
            raise UsageError(
                f"--columns {text!r}: {part!r} is not OURS=THEIRS",
                f"write the task's column first: OURS={'THEIRS' if equals else ours}",
            )
        if ours in columns:
            raise UsageError(f"--columns {text!r} names {ours!r} twice")
        columns[ours] = theirs
    return columns


def parse_numbers_by_module(text: str) -> dict[str, float]:
    """Parse `mlp.c_fc=16,h.3.attn.c_attn=4` to {"mlp.c_fc": 16.0, "h.3.attn.c_attn": 4.0}; `none` to {}."""
    if text.strip() == "none":
        return {}
    numbers: dict[str, float] = {}
    for part in text.split(","):
        module, _, number = (piece.strip() for piece in part.partition("="))
        if not re.fullmatch(r"\d+(\.\d+)?", number):
            raise UsageError(f"{part!r} is not MODULE=NUMBER", "mlp.c_fc=16,attn.c_attn=4")
        numbers[module] = float(number)
    return numbers


def parse_ranks_by_module(text: str) -> dict[str, int]:
    """Parse `mlp.c_fc=16` to {"mlp.c_fc": 16}. Raises UsageError for a rank that is not a whole number."""
    numbers = parse_numbers_by_module(text)
    if broken := [f"{module}={number:g}" for module, number in numbers.items() if number % 1]:
        raise UsageError(f"a rank must be a whole number, not {', '.join(broken)}")
    return {module: int(number) for module, number in numbers.items()}


def parse_label_words(text: str) -> tuple[str, str]:
    """Parse `yes,no` to ("yes", "no"): the word for label 1, then the word for label 0."""
    words = [word.strip() for word in text.split(",")]
    if len(words) != 2 or not all(words) or words[0] == words[1]:
        raise UsageError(f"--label-words {text!r} is not two different words", "--label-words yes,no")
    return words[0], words[1]


def parse_size(text: str) -> int:
    """Parse a size in bytes: `4GB` is 4,000,000,000, `1KiB` is 1,024, `off` is 0."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(B|[kMGT]i?B)?", text.strip(), re.IGNORECASE)
    if text.strip().lower() == "off":
        return 0
    if match is None:
        raise UsageError(f"{text!r} is not a size in bytes", "write a number with its unit: 500MB or 4GB")
    return round(float(match[1]) * SIZES[(match[2] or "B").upper()])


def parse_shape(text: str) -> Shape:
    """Parse `layers=6,heads=4,width=256,context=512,vocabulary=8192` to a Shape. Raises UsageError."""
    example = "--from-scratch layers=6,heads=4,width=256,context=512,vocabulary=8192"
    values: dict[str, int] = {}
    for part in text.split(","):
        name, _, number = (piece.strip() for piece in part.partition("="))
        if name not in SHAPE_FIELDS:
            raise UsageError(f"--from-scratch has no {name!r}{did_you_mean(name, SHAPE_FIELDS)}", example)
        if not number.isdigit() or int(number) == 0:
            raise UsageError(
                f"--from-scratch: {name} should be a positive whole number, not {number!r}", example
            )
        values[SHAPE_FIELDS[name]] = int(number)
    missing = [name for name, key in SHAPE_FIELDS.items() if key not in values]
    if missing:
        raise UsageError(f"--from-scratch lacks {', '.join(missing)}", example)
    shape = Shape(**values)
    if shape.n_embd % shape.n_head:
        raise UsageError(
            f"--from-scratch: {shape.n_head} heads do not divide a width of {shape.n_embd}", example
        )
    return shape


def show_size(count: int) -> str:
    """Write a number of bytes as text for `parse_size`: `4GB`, `off`."""
    unit = next((unit for unit in ("TB", "GB", "MB", "KB") if count >= SIZES[unit]), "B")
    return f"{count / SIZES[unit]:g}{unit}" if count else "off"


def show_shape(shape: Shape) -> str:
    """Write a shape as text for `parse_shape`."""
    return ",".join(f"{name}={getattr(shape, key)}" for name, key in SHAPE_FIELDS.items())
