"""Convert options with several values to the cells of a sweep: one training run for each combination.

Importing this module does not load torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import prod
from typing import Any

from explora.core.config.precedence import fit_learning_rate, resolve
from explora.core.config.registry import Shape, method_class
from explora.core.config.run_config import TrainRun, all_settings, foreign_settings, settings_of
from explora.core.config.setting import spelled
from explora.core.sweeps.names import name_cells
from explora.core.sweeps.several import Several
from explora.errors import UsageError

MOST_CELLS = 10_000


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a sweep: its name, which is also the name of its folder, and its settings.

    `varied` holds those settings of this cell that differ between the cells, as option text.
    """

    name: str
    run: TrainRun
    varied: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """The cells of a sweep in order, and one message for each setting that some method does not have."""

    cells: tuple[Cell, ...]
    dropped: tuple[str, ...] = ()


def cross(task: str, options: Mapping[str, Any], from_file: Mapping[str, Any] | None = None) -> Crossing:
    """Return a cell for each combination of the values of `options`; equal cells count once.

    If methods are compared, each uses those settings that it has. The seed varies slowest, so that an
    interrupted sweep has compared everything with its first seeds. Raises UsageError for a combination that
    cannot be trained, and for a setting that none of the methods has.
    """
    from explora.core.base.find import shape_of as find_shape

    axes = {name: value for name, value in options.items() if isinstance(value, Several)}
    axes = {name: axes[name] for name in sorted(axes, key=lambda name: name != "seed")}  # sorting is stable
    _check_size(axes)
    shape_of = cache(find_shape)  # for a hub id, it sends a request
    runs: dict[str, TrainRun] = {}
    dropped: dict[str, None] = {}
    for values in product(*axes.values()):
        chosen = {**options, **dict(zip(axes, values, strict=True))}
        lacked = _lacked_settings(options, chosen)
        dropped |= dict.fromkeys(f"{chosen['method']} does not take --{spelled(name)}" for name in lacked)
        own = {name: value for name, value in chosen.items() if name not in lacked}
        with _naming_the_cell(axes, values):
            run = _configure(task, own, from_file, shape_of)
        runs.setdefault(json.dumps(run.to_json(), sort_keys=True), run)
    return Crossing(cells=_as_cells(list(runs.values()), list(axes)), dropped=tuple(dropped))


def _check_size(axes: Mapping[str, Several]) -> None:
    count = prod(len(values) for values in axes.values())
    if count > MOST_CELLS:
        raise UsageError(
            f"{count:,} combinations are more than a sweep's limit of {MOST_CELLS:,}", "give fewer values"
        )


def _lacked_settings(options: Mapping[str, Any], chosen: Mapping[str, Any]) -> set[str]:
    """Return the options that the method of a cell does not have, but another method of the sweep has."""
    methods = options.get("method")
    if not isinstance(methods, Several):
        return set()
    lacked = {name: set(foreign_settings(method_class(name), options)) for name in methods}
    by_all = set.intersection(*lacked.values())
    return lacked[chosen["method"]] - by_all


@contextmanager
def _naming_the_cell(axes: Iterable[str], values: Iterable[Any]) -> Iterator[None]:
    """Add the values of a cell to the beginning of the message of a UsageError."""
    try:
        yield
    except UsageError as error:
        words = [f"--{spelled(name)} {Several((value,))}" for name, value in zip(axes, values, strict=True)]
        raise UsageError(f"{' '.join(words)}: {error.message}", error.hint) from None


def _configure(
    task: str,
    options: Mapping[str, Any],
    from_file: Mapping[str, Any] | None,
    shape_of: Callable[[str], Shape],
) -> TrainRun:
    """Resolve and check the settings of one cell in the same way as `train`."""
    if options.get("from_run", (from_file or {}).get("from_run")) is not None:
        from explora.core.runs.origin import inherit  # loads torch, which a dry run does not need

        from_file = inherit(task, options, from_file or {})
    run, origins = resolve(task, options, from_file)
    shape = run.from_scratch or shape_of(run.model)
    run, _ = fit_learning_rate(run, origins, shape.n_embd)
    run.method.check_fit(shape)
    run.method.check_use(shape)
    _check_length(run, shape, origins)
    return run


def _check_length(run: TrainRun, shape: Shape, origins: Mapping[str, str]) -> None:
    if origins["max_length"] == "option" and run.encoding.max_length > shape.n_positions:
        raise UsageError(f"the base reads at most {shape.n_positions} tokens", "lower --max-length")


def _as_cells(runs: list[TrainRun], axes: list[str]) -> tuple[Cell, ...]:
    """Name the runs by their differences; `axes` are the settings with several values."""
    shown = [_shown(run, ["method", *(name for name in axes if name != "method")]) for run in runs]
    varying = {name for each in shown for name in each if len({other.get(name) for other in shown}) > 1}
    varied = [{name: text for name, text in each.items() if name in varying} for each in shown]
    names = name_cells([run.method.name for run in runs], varied)
    return tuple(
        Cell(name=name, run=run, varied=settings)
        for name, run, settings in zip(names, runs, varied, strict=True)
    )


def _shown(run: TrainRun, names: list[str]) -> dict[str, str]:
    """Return those of the named settings that the run has, as option text."""
    known, values = all_settings(type(run.method)), settings_of(run)
    return {
        name: known[name].show(values[name]) if name in known else str(values[name])
        for name in names
        if name in values
    }
