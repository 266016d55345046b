"""The complete configuration of a run, `TrainRun`, with an exact conversion to JSON and back.

Setting names are unique across all parts, so options, keys of config files and task defaults use the name of
a setting alone. `precedence` chooses among several values, and `validation` checks the result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from explora.core.config import values
from explora.core.config.concerns import (
    DataConfig,
    EncodingConfig,
    OptimizerConfig,
    RuntimeConfig,
    TrainingConfig,
)
from explora.core.config.method import Method
from explora.core.config.plain_json import from_plain, to_plain
from explora.core.config.registry import DEFAULT_METHOD, EMBEDDED, METHODS, Shape, method_class
from explora.core.config.setting import Setting, setting, settings_of_class
from explora.errors import UsageError


def _default_method() -> Method:
    return method_class(DEFAULT_METHOD)()


@dataclass(frozen=True, kw_only=True)
class TrainRun:
    """One complete training run. The same run on the same data and machine gives the same bits."""

    task: str
    model: str = setting(
        EMBEDDED,
        "The base: a name, a hub id, a local Hugging Face folder, or random:NAME (for timing only).",
        metavar="NAME|FOLDER",
        default="the small base in the package",
    )
    tokenizer: str | None = setting(
        None,
        "Folder with tokenizer.json, or with vocab.json and merges.txt.",
        metavar="FOLDER",
        default="the base's own",
    )
    from_scratch: Shape | None = setting(
        None,
        "Train a new base on plain text: layers=6,heads=4,width=256,context=512,vocabulary=8192.",
        metavar="SHAPE",
        default="start from --model",
        parse=values.parse_shape,
        show=values.show_shape,
    )
    from_run: str | None = setting(
        None,
        "Start from trained weights: a run folder, or a PEFT adapter, of the same task, base and method.",
        metavar="RUN",
        default="start from the base",
    )
    method: Method = field(default_factory=_default_method)
    data: DataConfig = field(default_factory=DataConfig)
    encoding: EncodingConfig = field(default_factory=EncodingConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)

    def to_json(self) -> dict[str, Any]:
        """Convert the run to plain lists, dicts, numbers and strings."""
        plain: dict[str, Any] = to_plain(self)
        plain["method"] = method_to_json(self.method)
        return plain

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TrainRun:
        """Build a run from the output of `to_json`. Raises UsageError for an unknown key."""
        if not isinstance(value, Mapping):
            raise UsageError(f"run should be an object, not {value!r}")
        method = _method_from_json(value.get("method", {}))
        rest = {key: item for key, item in value.items() if key != "method"}
        run: TrainRun = from_plain(cls, rest, "run")
        return dataclasses.replace(run, method=method)


def method_to_json(method: Method) -> dict[str, Any]:
    """Return the name of a method and its settings as plain JSON data."""
    return {"method": method.name, **to_plain(method)}


# Before format 2, every run recorded these settings, whatever its method.
_FORMAT_1 = {"method", "rank", "alpha", "lora_dropout", "targets", "layers"}


def _method_from_json(value: Any) -> Method:
    if not isinstance(value, Mapping):
        raise UsageError(f"run.method should be an object, not {value!r}")
    name = value.get("method", DEFAULT_METHOD)
    if not isinstance(name, str):
        raise UsageError(f"run.method.method should be of type str, not {name!r}")
    kind = method_class(name)
    own = {key: item for key, item in value.items() if key != "method"}
    if value.keys() == _FORMAT_1:
        own = {key: item for key, item in own.items() if key in field_names(kind)}
    method: Method = from_plain(kind, own, "run.method")
    return method


CONCERNS: dict[str, type[Any]] = {
    "data": DataConfig,
    "encoding": EncodingConfig,
    "optimizer": OptimizerConfig,
    "training": TrainingConfig,
    "runtime": RuntimeConfig,
}
WHOLE = ("model", "tokenizer", "from_scratch", "from_run")  # settings that are fields of TrainRun itself


def field_names(kind: type[Any]) -> list[str]:
    """Return the names of the settings of a concern or a method."""
    return [item.name for item in dataclasses.fields(kind)]


def all_settings(method: type[Method]) -> dict[str, Setting]:
    """Return the settings of a run trained by a method, by name, without `method` itself."""
    kinds: tuple[type[Any], ...] = (TrainRun, method, *CONCERNS.values())
    return {item.name: item for kind in kinds for item in settings_of_class(kind)}


def method_settings() -> dict[str, Setting]:
    """Return the settings of all methods by name; for a name of several methods, the first method's."""
    found: dict[str, Setting] = {}
    for name in METHODS:
        for item in settings_of_class(method_class(name)):
            found.setdefault(item.name, item)
    return found


def methods_with(name: str) -> list[str]:
    """Return the names of the methods that have a setting."""
    return [method for method in METHODS if name in field_names(method_class(method))]


def foreign_settings(method: type[Method], names: Iterable[str]) -> Iterator[str]:
    """Yield the names of those settings that belong only to other methods."""
    known = method_settings().keys() - set(field_names(method))
    return (name for name in names if name in known)


def settings_of(run: TrainRun) -> dict[str, Any]:
    """Return every setting of a run by its name alone, without the name of its part."""
    flat: dict[str, Any] = {name: getattr(run, name) for name in WHOLE}
    flat |= {"method": run.method.name}
    for part in (run.method, *(getattr(run, concern) for concern in CONCERNS)):
        flat |= {name: getattr(part, name) for name in field_names(type(part))}
    return flat


def settings_in(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a run's JSON contains, by name alone; the JSON may be incomplete.

    Raises UsageError for an unknown key and for a value of another type.
    """
    flat = settings_of(TrainRun.from_json(value))
    sections = {"method", *CONCERNS}
    named = {name for key, item in value.items() for name in (item if key in sections else (key,))}
    return {name: flat[name] for name in flat if name in named}
