"""Description of settings where they are declared: help, range, choices and text form of a dataclass field.

Options, config files, validation and the dry run are all generated from these descriptions.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from explora.errors import UsageError, did_you_mean

_KEY = "setting"


@dataclass(frozen=True, kw_only=True)
class Range:
    """The numbers from `low` to just below `high`; `text` completes the sentence "it must be ..."."""

    low: float
    high: float
    text: str


def at_least(low: int) -> Range:
    """Return the range of all finite numbers of `low` and more."""
    return Range(low=low, high=math.inf, text=f"at least {low}")


POSITIVE = Range(low=math.nextafter(0.0, 1.0), high=math.inf, text="a positive number")
FRACTION = Range(low=0.0, high=1.0, text="in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class Description:
    """Meaning, range and text form of a setting.

    `help` leaves out the default. `default` is the text for a default that the field does not contain.
    `parse` reads the text of an option; `show` writes a value so that `parse` can read it.
    """

    help: str
    metavar: str | None = None
    default: str | None = None
    choices: tuple[str, ...] = ()
    range: Range | None = None
    parse: Callable[[str], Any] | None = None
    show: Callable[[Any], str] | None = None


def setting(
    value: Any,
    help: str,
    *,
    metavar: str | None = None,
    default: str | None = None,
    choices: tuple[str, ...] = (),
    range: Range | None = None,
    parse: Callable[[str], Any] | None = None,
    show: Callable[[Any], str] | None = None,
) -> Any:
    """Declare a field with the default `value` and its description; see `Description`."""
    about = Description(
        help=help, metavar=metavar, default=default, choices=choices, range=range, parse=parse, show=show
    )
    if isinstance(value, dict):
        return dataclasses.field(default_factory=lambda: dict(value), metadata={_KEY: about})
    return dataclasses.field(default=value, metadata={_KEY: about})


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A field that is a setting: its name, its type without None, its default, and its description."""

    name: str
    kind: Any
    default: Any
    about: Description

    @property
    def spelled(self) -> str:
        """The setting's name as an option, without the dashes before it."""
        return spelled(self.name)

    def check(self, value: Any) -> None:
        """Raise UsageError for a value that is out of range or not a choice; None is always valid."""
        if value is None:
            return
        choices, allowed = self.about.choices, self.about.range
        if choices and value not in choices:
            known = ", ".join(choices)
            raise UsageError(
                f"--{self.spelled} {value!r} is not one of {known}{did_you_mean(str(value), choices)}"
            )
        if allowed is not None and not allowed.low <= value < allowed.high:
            hint = f"leave --{self.spelled} out for the default"
            raise UsageError(f"--{self.spelled} must be {allowed.text}, not {value!r}", hint)

    def check_type(self, value: Any) -> None:
        """Raise UsageError for a value of the wrong type. A float setting takes integers too."""
        if self.kind not in (bool, int, float, str):
            return
        allowed = (int, float) if self.kind is float else self.kind
        if isinstance(value, allowed) and isinstance(value, bool) <= (self.kind is bool):
            return
        example = "" if self.default is None else f"for example, {{{self.name!r}: {self.default!r}}}"
        found = f"{value!r} of type {type(value).__name__}"
        raise UsageError(f"{self.name} is of type {self.kind.__name__}, not {found}", example)

    def show(self, value: Any) -> str:
        """Return a value as text that the option accepts."""
        if value is None:
            return "none"
        if self.about.show is not None:
            return self.about.show(value)
        if isinstance(value, Mapping):
            return ",".join(f"{key}={_plain(each)}" for key, each in value.items()) or "none"
        if isinstance(value, tuple):
            return ",".join(value)
        return _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def settings_of_class(kind: type[Any]) -> Iterator[Setting]:
    """Yield the settings that a configuration dataclass declares, in the order of its fields."""
    hints = typing.get_type_hints(kind)
    for item in dataclasses.fields(kind):
        if (about := item.metadata.get(_KEY)) is None:
            continue
        factory = item.default_factory
        default = item.default if factory is dataclasses.MISSING else factory()
        yield Setting(name=item.name, kind=_without_none(hints[item.name]), default=default, about=about)


def _without_none(hint: Any) -> Any:
    arguments = typing.get_args(hint)
    return next(each for each in arguments if each is not type(None)) if type(None) in arguments else hint


def check_settings(config: Any) -> None:
    """Raise UsageError for the first setting of a configuration dataclass that is out of range."""
    for item in settings_of_class(type(config)):
        item.check(getattr(config, item.name))


def spelled(name: str) -> str:
    """Return the name of a setting as an option, without the dashes before it."""
    return "from" if name == "from_run" else name.replace("_", "-")  # `from` cannot name a field in Python
