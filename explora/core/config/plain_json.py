"""Exact conversion of dataclasses to plain JSON data and back; errors name the place of unexpected data."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING
from typing import Any

from explora.core.config.values import Blocks
from explora.errors import UsageError, did_you_mean


def to_plain(value: Any) -> Any:
    """Convert a value to lists, dicts, numbers and strings."""
    if isinstance(value, Blocks):
        return str(value)
    if dataclasses.is_dataclass(value):
        return {item.name: to_plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in value]
    return value


def from_plain(kind: Any, value: Any, where: str) -> Any:
    """Build `kind`, a type or a field's type hint, from plain data. Raises UsageError, naming the place."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _dataclass(kind, value, where)
    arguments, origin = typing.get_args(kind), typing.get_origin(kind)
    if type(None) in arguments:
        return None if value is None else from_plain(arguments[0], value, where)
    if kind is Blocks:
        return Blocks.from_json(value, where)
    if origin is tuple:
        return _tuple(arguments, value, where)
    if origin is not None:
        _require_mapping(value, where)
        return {name: from_plain(arguments[1], item, f"{where}.{name}") for name, item in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UsageError(f"{where} should be of type {kind.__name__}, not {value!r}")
    return value


def _dataclass(kind: type[Any], value: Any, where: str) -> Any:
    _require_mapping(value, where)
    hints = typing.get_type_hints(kind)
    fields = dataclasses.fields(kind)
    refuse_unknown(value, [item.name for item in fields], where)
    for item in fields:
        if item.default is MISSING and item.default_factory is MISSING and item.name not in value:
            raise UsageError(f"{where} has no value for {item.name}")
    return kind(**{name: from_plain(hints[name], each, f"{where}.{name}") for name, each in value.items()})


def _tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    length = None if arguments[-1] is Ellipsis else len(arguments)
    if not isinstance(value, (list, tuple)) or length not in (None, len(value)):
        raise UsageError(f"{where} should be a list{f' of {length}' if length else ''}, not {value!r}")
    return tuple(from_plain(arguments[0], item, where) for item in value)


def _require_mapping(value: Any, where: str) -> None:
    if not isinstance(value, Mapping):
        raise UsageError(f"{where} should be an object, not {value!r}")


def refuse_unknown(keys: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise UsageError for the first key that is not known, and suggest the nearest known key."""
    known = list(known)
    for key in keys:
        if key not in known:
            raise UsageError(f"{where} has no setting {key!r}{did_you_mean(key, known)}")
