"""Order of precedence for settings: option, config file, task with method, task, default of the field."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from explora.core.config.method import Method
from explora.core.config.plain_json import refuse_unknown
from explora.core.config.registry import DEFAULT_METHOD, TASKS, method_class, task_row
from explora.core.config.run_config import (
    CONCERNS,
    WHOLE,
    TrainRun,
    all_settings,
    field_names,
    foreign_settings,
    method_settings,
    methods_with,
)
from explora.core.config.setting import Setting, spelled
from explora.core.config.validation import validate
from explora.core.config.values import Blocks
from explora.errors import UsageError

DEFAULTS_WIDTH = 768  # the width (n_embd) for which the methods' learning rates were chosen


def resolve(
    task: str, options: Mapping[str, Any], from_file: Mapping[str, Any] | None = None
) -> tuple[TrainRun, dict[str, str]]:
    """Combine options, the settings of a config file and the defaults of task and method into a TrainRun.

    `options` holds only what the user gave, by setting name; `from_file` holds what the config file names.
    Returns the run and the origin of each value, by setting name. Raises UsageError for settings that are
    unknown, out of range or in conflict.
    """
    from_file = _of_same_method(options, from_file or {})
    name = options.get("method", from_file.get("method", DEFAULT_METHOD))
    row, method = task_row(task), method_class(name)
    known = all_settings(method)
    refuse_unknown(options, {"method"} | known.keys() | method_settings().keys(), "the command")
    _refuse_pointless(task, method, options)
    of_method = f"{task} with {name}"
    layers: list[tuple[str, Mapping[str, Any]]] = [
        ("option", options),
        ("config file", from_file),
        (of_method, method.defaults(task)),
        (task, row.defaults),
    ]
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for setting in ("method", *known):
        found = next(((origin, layer[setting]) for origin, layer in layers if setting in layer), None)
        if found is None:
            origins[setting] = "default"
            continue
        origins[setting], values[setting] = found[0], _typed(known.get(setting), found[1])
    run = _build(task, method, values)
    if origins["learning_rate"] == of_method:
        run = _with_learning_rate(run, run.method.usual_learning_rate(task))
    validate(run)
    return run, origins


def _of_same_method(options: Mapping[str, Any], from_file: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings of a config file, without the learning rate if an option chooses another method.

    A recorded learning rate fits its own method only. Settings that both methods have stay, so that the two
    runs can be compared.
    """
    recorded = from_file.get("method")
    if recorded is None or options.get("method", recorded) == recorded:
        return from_file
    return {name: value for name, value in from_file.items() if name != "learning_rate"}


def _typed(setting: Setting | None, value: Any) -> Any:
    """Convert a value to its type in the configuration: parse text, and make Blocks of a list of blocks.

    Raises UsageError for a value of another type.
    """
    if setting is None or value is None:
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, str) and setting.about.parse is not None:
        return setting.about.parse(value)
    setting.check_type(value)
    if (dashed := str(value).replace("_", "-")) in setting.about.choices:
        return dashed
    return Blocks(value) if setting.kind is Blocks else value


def _build(task: str, method: type[Method], values: Mapping[str, Any]) -> TrainRun:
    def part(kind: type[Any]) -> Any:
        return kind(**{name: values[name] for name in field_names(kind) if name in values})

    whole = {name: values[name] for name in WHOLE if name in values}
    parts = {concern: part(kind) for concern, kind in CONCERNS.items()}
    return TrainRun(task=task, **whole, method=part(method), **parts)


def fit_learning_rate(
    run: TrainRun, origins: Mapping[str, str], width: int
) -> tuple[TrainRun, dict[str, str]]:
    """Scale a default learning rate, chosen for GPT-2's width of 768, to a base of another width.

    The best learning rate of Adam is proportional to 1 / width (Yang et al. 2022, table 3). A learning rate
    from an option or a config file does not change.
    """
    if origins["learning_rate"] in ("option", "config file") or width == DEFAULTS_WIDTH:
        return run, dict(origins)
    rate = float(f"{run.optimizer.learning_rate * DEFAULTS_WIDTH / width:.2g}")
    fitted = _with_learning_rate(run, rate)
    return fitted, {**origins, "learning_rate": f"{origins['learning_rate']}, for a width of {width}"}


def _with_learning_rate(run: TrainRun, rate: float) -> TrainRun:
    return dataclasses.replace(run, optimizer=dataclasses.replace(run.optimizer, learning_rate=rate))


def _refuse_pointless(task: str, method: type[Method], options: Mapping[str, Any]) -> None:
    """Raise UsageError for an option that this task or this method would ignore."""
    row = TASKS[task]
    if {"epochs", "max_minutes"} <= options.keys():
        raise UsageError("--epochs and --max-minutes exclude each other", "leave one of them out")
    if reason := row.refuses(method):
        raise UsageError(f"{task} cannot be trained by {method.name}: {reason}")
    for name in foreign_settings(method, options):
        users = methods_with(name)
        raise UsageError(
            f"{method.name} does not take --{spelled(name)}, an option of {', '.join(users)}",
            f"leave it out, or choose another method: --method {users[0]}",
        )
    for name in ("template", "label_words"):
        if name in options and name not in row.defaults:
            raise UsageError(
                f"{task} does not take --{spelled(name)}", "only paraphrase has a template and label words"
            )
