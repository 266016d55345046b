"""Plan a run: the settings of a new run from options and a config file, or those of a recorded run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from explora import console
from explora.core.config.precedence import fit_learning_rate, resolve
from explora.core.config.registry import Shape
from explora.core.config.run_config import TrainRun, all_settings, settings_in, settings_of
from explora.core.config.setting import spelled
from explora.core.runs.identity import Identity
from explora.core.runs.paths import with_absolute_paths
from explora.core.runs.phases import LENGTH
from explora.core.runs.record import read_config, read_identity
from explora.errors import UsageError, WeightsError


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run before it starts or is resumed, with the source of each setting.

    `expected` is what the run of a --config file was trained on, as far as no option overrides it.
    """

    run: TrainRun
    shape: Shape
    origins: dict[str, str]
    resumed: bool = False
    expected: Identity | None = None


def plan_new(task: str, settings: dict[str, Any], config: Path | None) -> Plan:
    """Plan a new run from options and a config file."""
    of_task, from_file = read_config(config) if config else (task, {})
    if of_task != task:
        raise UsageError(f"{config} is a run of {of_task}, not of {task}", f"explora train {of_task}")
    run, origins = _start_from(task, settings, from_file)
    shape = _shape(run)  # for a hub id a request
    run, origins = fit_learning_rate(run, origins, shape.n_embd)
    identity = read_identity(config) if config else None
    return _checked(
        Plan(
            run=run,
            shape=shape,
            origins=origins,
            expected=None if identity is None else identity.without(settings),
        )
    )


def _start_from(
    task: str, settings: dict[str, Any], from_file: dict[str, Any]
) -> tuple[TrainRun, dict[str, str]]:
    """Resolve the settings of a new run, with those of the run that it starts from (--from)."""
    if settings.get("from_run", from_file.get("from_run")) is None:
        return resolve(task, settings, from_file)
    from explora.core.runs.origin import check_start, has_seen_dev_rows, inherit, read_start  # loads torch

    known = inherit(task, settings, from_file)
    run, origins = resolve(task, settings, known)
    start = read_start(task, str(run.from_run), run.model)
    check_start(start, run)
    if has_seen_dev_rows(start, run):
        console.warn(
            f"{run.from_run} was trained on rows that are dev rows now: the same file is divided otherwise. "
            "Leave --seed and --data out, or name other rows: --dev FILE"
        )
    taken = {name for name in known if origins.get(name) == "config file" and name not in from_file}
    return run, origins | dict.fromkeys(taken, "--from")


def plan_rest(started: TrainRun, settings: dict[str, Any], folder: Path) -> Plan:
    """Plan the rest of a recorded run. Raises WeightsError if its base cannot be opened."""
    run, origins = resume_settings(started, settings)
    try:
        shape = _shape(run)
    except WeightsError as error:
        raise WeightsError(
            f"{folder} is trained on the base {run.model}, which cannot be opened: {error.message}",
            "put the base back, or start again with --overwrite --model NAME|FOLDER",
        ) from None
    return _checked(Plan(run=run, shape=shape, origins=origins, resumed=True))


def _checked(plan: Plan) -> Plan:
    """Return the plan. Raises UsageError if its method or its length does not fit the base."""
    plan.run.method.check_fit(plan.shape)
    plan.run.method.check_use(plan.shape)
    asked, most = plan.run.encoding.max_length, plan.shape.n_positions
    if plan.origins["max_length"] == "option" and asked > most:
        raise UsageError(f"--max-length {asked}: the base reads at most {most} tokens")
    return plan


def _shape(run: TrainRun) -> Shape:
    from explora.core.base.find import shape_of

    return run.from_scratch or shape_of(run.model)


def resume_settings(started: TrainRun, options: dict[str, Any]) -> tuple[TrainRun, dict[str, str]]:
    """Return the recorded run, and the sources of its settings.

    Raises UsageError for an option that contradicts the record, other than threads.
    """
    asked, origins = resolve(started.task, options, settings_in(started.to_json()))
    before = settings_of(with_absolute_paths(started))
    now = settings_of(with_absolute_paths(asked))
    for name in options:
        if before.get(name) != now[name] and name != "threads":
            raise UsageError(
                f"--resume continues {_said(started, name)}, not with {shown(asked, name)}",
                f"leave the option out{_later(name)}, or start again with --overwrite",
            )
    if "threads" not in options:
        return started, origins
    return replace(started, runtime=replace(started.runtime, threads=asked.runtime.threads)), origins


def _later(name: str) -> str:
    return f" (a finished run can be made longer: --resume --{spelled(name)})" if name in LENGTH else ""


def _said(run: TrainRun, name: str) -> str:
    known = settings_of(run).get(name) is not None
    return f"with {spelled(name)} {shown(run, name)}" if known else f"without {spelled(name)}"


def shown(run: TrainRun, name: str) -> str:
    """Return a setting of a run as its option takes it."""
    value = settings_of(run)[name]
    item = all_settings(type(run.method)).get(name)
    return str(value) if item is None else item.show(value)
