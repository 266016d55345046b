"""Write quantities for people: durations, sizes in bytes, and counts with their noun."""

from __future__ import annotations

from collections.abc import Sequence

_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}


def duration(seconds: float) -> str:
    """Return `3:05` (minutes and seconds), or `1:02:03` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `1 thread`, `2 threads`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def size(count: float) -> str:
    """Return bytes in the largest decimal unit that they reach: `1.2 MB`."""
    return _in_unit(count, _unit_of(count))


def sizes(counts: Sequence[float | None]) -> list[str]:
    """Return the cells of a column of bytes, all in the unit of the smallest; None gives an empty cell."""
    unit = _unit_of(min((count for count in counts if count), default=0))
    return ["" if count is None else _in_unit(count, unit) for count in counts]


def _unit_of(count: float) -> str:
    """Return the largest unit that `count` reaches."""
    reached = [unit for unit, number in _UNITS.items() if count >= number]
    return reached[-1] if reached else "B"


def _in_unit(count: float, unit: str) -> str:
    return f"{count:,.0f} B" if unit == "B" else f"{count / _UNITS[unit]:,.1f} {unit}"
