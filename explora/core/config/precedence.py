"""Where a run's settings come from: option > config file > default of the task > default of the field."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from explora.core.config.registry import METHODS, TASKS, task_row
from explora.core.config.run_config import (
    CONCERNS,
    TrainRun,
    field_names,
    foreign_settings,
    refuse_unknown,
    settings_of,
    spelled,
    validate,
)
from explora.errors import UsageError

DEFAULTS_WIDTH = 768  # the width (n_embd) that the registry's learning rates are for


def resolve(
    task: str, options: Mapping[str, Any], from_file: Mapping[str, Any] | None = None
) -> tuple[TrainRun, dict[str, str]]:
    """Combine options, the settings of a config file and the defaults of task and method into a TrainRun.

    `options` holds only what the user gave, by field name, `from_file` what the file names. Returns the
    run and, by field name, where each value came from. Raises UsageError for what cannot be.
    """
    row, from_file = task_row(task), from_file or {}
    method = options.get("method", from_file.get("method", "lora"))
    _refuse_pointless(task, method, options)
    layers: list[tuple[str, Mapping[str, Any]]] = [
        ("option", options),
        ("config file", from_file),
        (f"{task} with {method}", row.by_method.get(method, {})),
        (task, row.defaults),
    ]
    refuse_unknown(options, settings_of(TrainRun(task=task)), "the command")
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name in settings_of(TrainRun(task=task)):
        found = next(((origin, layer[name]) for origin, layer in layers if name in layer), None)
        if found is None:
            origins[name] = "default"
            continue
        origins[name], values[name] = found
    parts = {
        concern: kind(**{n: values[n] for n in field_names(kind) if n in values})
        for concern, kind in CONCERNS.items()
    }
    whole = {name: values[name] for name in ("model", "tokenizer", "from_scratch") if name in values}
    run = TrainRun(task=task, **whole, **parts)
    validate(run)
    return run, origins


def fit_learning_rate(
    run: TrainRun, origins: Mapping[str, str], width: int
) -> tuple[TrainRun, dict[str, str]]:
    """Fit a default learning rate, made for GPT-2's width of 768, to a base of another width.

    Adam's best rate goes as 1 / width (Yang et al. 2022, table 3). A rate that somebody gave stays.
    """
    if origins["learning_rate"] in ("option", "config file") or width == DEFAULTS_WIDTH:
        return run, dict(origins)
    rate = float(f"{run.optimizer.learning_rate * DEFAULTS_WIDTH / width:.2g}")
    fitted = dataclasses.replace(run, optimizer=dataclasses.replace(run.optimizer, learning_rate=rate))
    return fitted, {**origins, "learning_rate": f"{origins['learning_rate']}, for a width of {width}"}


def _refuse_pointless(task: str, method: str, options: Mapping[str, Any]) -> None:
    """Raise UsageError for an option that this task or this method would ignore."""
    row = TASKS[task]
    if {"epochs", "max_minutes"} <= options.keys():
        raise UsageError("--epochs and --max-minutes both say how long to train", "leave one of them out")
    if method in row.refused:
        raise UsageError(f"{task} cannot be trained by {method}: {row.refused[method]}")
    for name in foreign_settings(method, options):
        users = [other for other, known in METHODS.items() if name in known.settings]
        raise UsageError(
            f"{method} has no {spelled(name)}: that belongs to {', '.join(users)}",
            "leave it out, or train with --lora R",
        )
    for name in ("template", "label_words"):
        if name in options and name not in row.defaults:
            raise UsageError(
                f"{task} has no {spelled(name)}", "templates and label words belong to paraphrase"
            )
