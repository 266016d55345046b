"""Several values of one option, for the command line. Importing this module does not load torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from explora.errors import UsageError


class Several(tuple[Any, ...]):
    """Two or more values of one setting, in the given order."""

    __slots__ = ()

    def __str__(self) -> str:
        """Return the values separated by commas, as option text."""
        return ",".join(f"{value:g}" if isinstance(value, float) else str(value) for value in self)


def one_or_several(values: Iterable[Any]) -> Any:
    """Return a single value as it is, and several values as Several."""
    found = tuple(values)
    return found[0] if len(found) == 1 else Several(found)


def split_values(option: str, text: str, read: Callable[[str], Any], wanted: str) -> Any:
    """Parse `4,8,16` to Several and `4` to one value, each by `read`.

    `wanted` completes the message "... is not ..." if `read` raises ValueError. Raises UsageError, naming the
    item.
    """
    values = []
    for item in (part.strip() for part in text.split(",")):
        try:
            if not item:
                raise ValueError
            values.append(read(item))
        except ValueError:
            raise UsageError(f"{option} {text}: {item!r} is not {wanted}") from None
    return one_or_several(values)
