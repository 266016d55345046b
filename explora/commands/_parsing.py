"""The values of shared options, from text to what the configuration holds, and back for `--dry-run`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from explora import console
from explora.core.config.registry import TARGETS, Shape
from explora.errors import UsageError

SIZES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}


def parse_targets(text: str) -> tuple[str, ...]:
    """`query,attn_out` -> ("query", "attn-out"); which targets exist is checked with the configuration."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError("--targets names at least one target", f"--targets {','.join(TARGETS)}")
    return tuple(name if name in TARGETS else name.replace("_", "-") for name in names)


def parse_layers(text: str) -> tuple[int, int]:
    """`6-11` -> (6, 11), both ends inclusive; `6` -> (6, 6)."""
    match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", text)
    if match is None:
        raise UsageError(f"--layers {text!r} is not a range of blocks", "--layers 6-11 or --layers 11")
    first = int(match[1])
    last = int(match[2] or first)
    if last < first:
        raise UsageError(f"--layers {text!r} ends before it starts", f"--layers {last}-{first}")
    return first, last


def parse_columns(text: str) -> dict[str, str]:
    """`label=is_dup,sentence1=q1` -> {"label": "is_dup", "sentence1": "q1"} (ours -> the file's)."""
    columns: dict[str, str] = {}
    for part in text.split(","):
        ours, equals, theirs = (piece.strip() for piece in part.partition("="))
        if not (ours and equals and theirs):
            raise UsageError(f"--columns {text!r}: {part!r} is not OURS=THEIRS", "--columns label=is_dup")
        if ours in columns:
            raise UsageError(f"--columns {text!r} names {ours!r} twice")
        columns[ours] = theirs
    return columns


def parse_label_words(text: str) -> tuple[str, str]:
    """`yes,no` -> ("yes", "no"): the word for label 1, then the word for label 0."""
    words = [word.strip() for word in text.split(",")]
    if len(words) != 2 or not all(words) or words[0] == words[1]:
        raise UsageError(f"--label-words {text!r} is not two different words", "--label-words yes,no")
    return words[0], words[1]


def parse_method(lora: int | None, full: bool, last_linear: bool) -> dict[str, Any]:
    """Return the settings `method` and `rank` that `--lora R`, `--full`, `--last-linear` stand for."""
    chosen = {"lora": lora is not None, "full": full, "last-linear": last_linear}
    names = [name for name, is_chosen in chosen.items() if is_chosen]
    if len(names) > 1:
        raise UsageError(f"one method at a time, not {' and '.join('--' + name for name in names)}")
    settings: dict[str, Any] = {"method": names[0]} if names else {}
    if lora is not None:
        settings["rank"] = lora
    return settings


def parse_size(text: str) -> int:
    """`4GB` -> 4,000,000,000 bytes; `1KiB` -> 1,024; `off` -> 0."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(B|[kMGT]i?B)?", text.strip(), re.IGNORECASE)
    if text.strip().lower() == "off":
        return 0
    if match is None:
        raise UsageError(f"{text!r} is no size in bytes", "a number with its unit, 500MB or 4GB")
    return round(float(match[1]) * SIZES[(match[2] or "B").upper()])


_PARSERS: dict[str, Callable[[str], Any]] = {
    "targets": parse_targets,
    "layers": parse_layers,
    "columns": parse_columns,
    "label_words": parse_label_words,
    "feature_cache": parse_size,
}


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what the user gave (not None), by field name, and parse what is a list in one string."""
    return {
        name: _PARSERS[name](value) if name in _PARSERS else value
        for name, value in options.items()
        if value is not None
    }


def shown(name: str, value: Any) -> str:
    """Write a setting as its option takes it."""
    if value is None:
        return "none"
    if name == "layers":
        return f"{value[0]}-{value[1]}"
    if name == "feature_cache":
        return console.size(value) if value else "off"
    if isinstance(value, Shape):
        return ",".join(f"{key}={number}" for key, number in asdict(value).items())
    if isinstance(value, Mapping):
        return ",".join(f"{ours}={theirs}" for ours, theirs in value.items()) or "none"
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
