"""The values of one option that sweeps. Light: the command line reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from explora.errors import UsageError


class Several(tuple[Any, ...]):
    """Two or more values of one setting, in the order given."""

    __slots__ = ()

    def __str__(self) -> str:
        """Return the values separated by commas, as an option takes them."""
        return ",".join(f"{value:g}" if isinstance(value, float) else str(value) for value in self)


def one_or_several(values: Iterable[Any]) -> Any:
    """Return the only value itself, or Several."""
    found = tuple(values)
    return found[0] if len(found) == 1 else Several(found)


def split_values(option: str, text: str, read: Callable[[str], Any], wanted: str) -> Any:
    """Read `4,8,16` as Several and `4` as one value, each by `read`.

    `wanted` completes the sentence "... is not ..." where `read` raises ValueError. Raises UsageError, naming
    the item.
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
