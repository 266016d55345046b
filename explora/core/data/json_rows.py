"""Rows as JSON objects: one per line (JSON Lines), or all in one array."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from explora.core.config.registry import TaskRow
from explora.core.data.column_proposals import SAMPLE
from explora.core.data.columns import match_columns
from explora.core.data.records import SKIP_HINT, Parsed, checked
from explora.errors import DataError

_SPACE = re.compile(r"[ \t\n\r]*")
_FORM_HINT = 'write one object per line, or an array of objects: [{"sentence": ...}, ...]'
_TOO_DEEP = "invalid JSON: lists or objects are nested too deeply"

Item = tuple[int, dict[str, Any] | DataError]  # the line where an object starts; the object or its error


def is_json(text: str) -> bool:
    """Return whether a text starts like an object or like an array of objects."""
    return re.match(r'\s*(\{\s*["}]|\[\s*[{\]])', text) is not None


def parse_json(text: str, row: TaskRow, given: Mapping[str, str], file: str) -> Parsed:
    """Yield the rows of JSON Lines or of an array, and a DataError for each bad one.

    Raises DataError for a malformed array, and if no object has a required column.
    """
    objects = list(numbered_objects(text, file))
    keys: dict[str, None] = {}
    for _, item in objects:
        keys |= dict.fromkeys(item if isinstance(item, dict) else ())
    if not keys:
        raise next((item for _, item in objects if isinstance(item, DataError)), _no_keys(file))
    _refuse_wrapped(objects, file)
    head = [item for _, item in objects[:SAMPLE] if isinstance(item, dict)]
    sample = {key: [str(item[key]) for item in head if key in item] for key in keys}
    columns = match_columns(list(keys), row, given, file, by_position=False, sample=sample)
    for line, item in objects:
        if isinstance(item, DataError):
            yield item
            continue
        values = _strings(item, columns, row, file, line)
        yield values if isinstance(values, DataError) else checked(values, columns, row, file, line)


def _refuse_wrapped(objects: Sequence[Item], file: str) -> None:
    """Raise DataError for a file that is one object with the rows in a list inside it."""
    only = objects[0][1]
    if len(objects) > 1 or isinstance(only, DataError):
        return
    for name, value in only.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            hint = f"extract them: jq -c '.[{json.dumps(name)}][]' {file} > rows.jsonl"
            raise DataError(f"the rows are in the list {name!r} of one object", hint, file=file)


def numbered_objects(text: str, file: str) -> Iterator[Item]:
    """Yield each object, or its error, with its line number; blank lines are ignored.

    Raises DataError for a malformed array, because the start of its next object is unknown.
    """
    if text.lstrip().startswith("[") and is_json(text):
        return _of_array(text, file)
    numbered = enumerate(io.StringIO(text, newline=""), 1)
    return (item for number, line in numbered for item in object_of_line(number, line, file))


def object_of_line(number: int, line: str, file: str) -> Iterator[Item]:
    """Yield the object of a line of JSON Lines, or its error; nothing for a blank line."""
    if line.strip():
        yield number, _object(line, file, number)


def _of_array(text: str, file: str) -> Iterator[Item]:
    decoder = json.JSONDecoder()
    at, line, counted = text.index("[") + 1, 1, 0
    while True:
        at = _skip_space(text, at)
        line, counted = line + text.count("\n", counted, at), at
        if text[at : at + 1] == "]":
            break
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise _broken(error.msg, file, error.lineno, error.colno) from None
        except RecursionError:
            raise DataError(_TOO_DEEP, _FORM_HINT, file=file, line=line) from None
        except ValueError as error:
            raise DataError(f"invalid JSON: {error}", file=file, line=line) from None
        yield line, value if isinstance(value, dict) else _no_object(value, file, line)
        at = _skip_space(text, at)
        if text[at : at + 1] not in (",", "]"):
            problem = json.JSONDecodeError("a comma or ] is expected", text, at)
            raise _broken(problem.msg, file, problem.lineno, problem.colno)
        at += text[at] == ","
    if rest := text[at + 1 :].strip():
        raise DataError(f"text after the end of the array: {rest[:20]!r}", _FORM_HINT, file=file, line=line)


def _skip_space(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    assert space is not None
    return space.end()


def _broken(message: str, file: str, line: int, character: int) -> DataError:
    return DataError(
        f"invalid JSON in an array: {message} (character {character})", _FORM_HINT, file=file, line=line
    )


def _object(line: str, file: str, number: int) -> dict[str, Any] | DataError:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        message = f"invalid JSON: {error.msg} (character {error.colno})"
        hint = f"{_FORM_HINT}; {SKIP_HINT}" if number == 1 else SKIP_HINT
        return DataError(message, hint, file=file, line=number)
    except RecursionError:
        return DataError(_TOO_DEEP, SKIP_HINT, file=file, line=number)
    except ValueError as error:
        return DataError(f"invalid JSON: {error}", SKIP_HINT, file=file, line=number)
    return value if isinstance(value, dict) else _no_object(value, file, number)


def _no_object(value: object, file: str, line: int) -> DataError:
    return DataError(f"an object {{...}} is expected, not {_kind(value)}", SKIP_HINT, file=file, line=line)


def _no_keys(file: str) -> DataError:
    return DataError("the objects have no keys", "a row must be an object: {...}", file=file, line=1)


def _strings(
    item: Mapping[str, Any], columns: Mapping[str, str], row: TaskRow, file: str, line: int
) -> dict[str, str] | DataError:
    """Return the values as strings; a label or an id may also be a number or a boolean."""
    values = {}
    for canonical, name in columns.items():
        value = item.get(name)
        if value is None:
            values[canonical] = ""
        elif isinstance(value, str):
            values[canonical] = value
        elif canonical not in row.columns and isinstance(value, (bool, int, float)):
            values[canonical] = json.dumps(value)
        else:
            expected = f"a string is expected, not {_kind(value)}"
            return DataError(expected, SKIP_HINT, file=file, line=line, column=name)
    return values


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
