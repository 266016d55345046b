"""`explora train`: options to a TrainRun, the run's events to a bar, its result to stdout."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explora import console
from explora.commands import _options as o
from explora.commands._environment import prepare_training
from explora.commands._following import follow
from explora.commands._memory import warn_if_short
from explora.commands._precision import warn_if_emulated
from explora.commands._scores import show_scores
from explora.commands._settings import DATA, MACHINE, METHOD, MODEL, OPTIMIZER, TRAINING, with_settings
from explora.core.config.precedence import fit_learning_rate, resolve
from explora.core.config.registry import TASKS, Shape
from explora.core.config.run_config import TrainRun, all_settings, settings_in, settings_of
from explora.core.config.setting import spelled
from explora.core.estimate.parameters import count
from explora.core.runs.folder import check_folder, unfinished_run
from explora.core.runs.record import read_config, read_losses
from explora.errors import UsageError

if TYPE_CHECKING:
    from explora.core.runs.events import Completed
    from explora.core.runs.train import Running


@with_settings(*MODEL, *METHOD, *DATA, *OPTIMIZER, *TRAINING, *MACHINE)
def train(
    task: o.Task,
    *,
    settings: dict[str, Any],
    output: o.Output = None,
    overwrite: o.Overwrite = False,
    resume: o.Resume = False,
    config: o.Config = None,
    dry_run: o.DryRun = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Train an adapter, a head or the whole model.

    The run folder (-o, by default runs/TASK) holds the adapter or model, a model card, run.json and
    metrics.jsonl. Where PEFT has the method, it is a PEFT adapter.

    Examples:

    `explora train paraphrase --lora 8`

    `explora train sentiment --data sst --full --epochs 3`

    `explora train sonnet --data poems.txt --lora 16 -o runs/poems`

    `explora train paraphrase --resume`
    """
    began = time.monotonic()
    prepare_training()
    folder = output or Path("runs") / task
    if resume and overwrite:
        raise UsageError("--resume continues a run and --overwrite removes it", "choose one of them")
    if resume and config:
        raise UsageError("--resume continues with the recorded settings", "leave --config out")
    started = _started(folder, task) if resume else None
    of_task, from_file = read_config(config) if config else (task, {})
    if of_task != task:
        raise UsageError(f"{config} is a run of {of_task}, not of {task}", f"explora train {of_task}")
    if started is not None:
        from_file = settings_in(started.to_json())
    run, origins = resolve(task, settings, from_file)
    shape = _shape(run)  # for a hub id a request
    if started is None:
        run, origins = fit_learning_rate(run, origins, shape.n_embd)
    else:
        run = _resumed(started, run, settings)
    run.method.check_fit(shape)
    run.method.check_use(shape)
    _check_length(run, shape, origins)
    if dry_run:
        _show_plan(run, shape, origins, json)
        return
    if started is None:
        check_folder(folder, overwrite=overwrite)
    _execute(run, {} if resume else origins, folder, began, overwrite=overwrite, json=json)


def _started(folder: Path, task: str) -> TrainRun:
    """Return the unfinished run of a folder. Raises UsageError for a run of another task, and for none."""
    run = unfinished_run(folder)
    if run.task != task:
        raise UsageError(
            f"--resume: {folder} holds a run of {run.task}, not of {task}",
            f"explora train {run.task} -o {folder} --resume",
        )
    return run


def _shape(run: TrainRun) -> Shape:
    from explora.core.base.find import shape_of

    return run.from_scratch or shape_of(run.model)


def _check_length(run: TrainRun, shape: Shape, origins: dict[str, str]) -> None:
    """Raise UsageError for --max-length beyond what the base reads; a default is cut to it."""
    asked, most = run.encoding.max_length, shape.n_positions
    if origins["max_length"] == "option" and asked > most:
        raise UsageError(f"--max-length {asked}: the base reads at most {most} tokens")


def _execute(
    run: TrainRun,
    origins: dict[str, str],
    folder: Path,
    began: float,
    *,
    overwrite: bool,
    json: bool,
) -> None:
    """Train, show and write. `origins` is empty for a run that is resumed."""
    from explora.core.runs.train import start_run

    warn_if_emulated(run.runtime, is_recorded=not origins)
    run = _with_runtime(run)
    _show_settings(run, origins)
    running = start_run(run, folder, replace=overwrite, spent=time.monotonic() - began)
    session = running.session
    for message in [*running.train.skipped, *running.dev.skipped]:
        console.warn(f"skipped: {message}")
    console.note(
        f"{len(running.train.examples):,} train and {len(running.dev.examples):,} dev examples; "
        f"{session.label}; {_length(running)}"
        + (f", going on after step {running.resumed_at:,}" if running.resumed_at else "")
    )
    _show_feature_cache(running)
    warn_if_short(running)
    completed = follow(running)
    if json:
        console.result_json(completed.result.to_json())
        return
    losses = read_losses(folder)
    console.result(f"loss {losses[0]:.3f} {console.sparkline(losses)} {losses[-1]:.3f}")
    _show_result(completed)


def _length(running: Running) -> str:
    """Say how long the run is."""
    training = running.run.training
    if training.max_minutes is not None and training.max_steps is None:
        return f"as many steps as fit into {console.duration(60 * training.max_minutes)}"
    return f"{running.training.steps:,} steps"


def _resumed(started: TrainRun, asked: TrainRun, options: dict[str, Any]) -> TrainRun:
    """Return the recorded run; an option that contradicts it, other than threads, is refused."""
    before, now = settings_of(started), settings_of(asked)
    for name in options:
        if before.get(name) != now[name] and name != "threads":
            raise UsageError(
                f"--resume continues {_said(started, name)}, not with {shown(asked, name)}",
                "leave the option out, or start again with --overwrite",
            )
    if "threads" not in options:
        return started
    return replace(started, runtime=replace(started.runtime, threads=asked.runtime.threads))


def _said(run: TrainRun, name: str) -> str:
    known = settings_of(run).get(name) is not None
    return f"with {spelled(name)} {shown(run, name)}" if known else f"without {spelled(name)}"


def shown(run: TrainRun, name: str) -> str:
    """Write a setting of a run as its option takes it."""
    value = settings_of(run)[name]
    item = all_settings(type(run.method)).get(name)
    return str(value) if item is None else item.show(value)


def _with_runtime(run: TrainRun) -> TrainRun:
    from explora.core.runtime.resolve import resolve_runtime

    return replace(run, runtime=resolve_runtime(run.runtime))


def _show_settings(run: TrainRun, origins: dict[str, str]) -> None:
    optimizer, training = run.optimizer, run.training
    origin = f" ({origins['learning_rate']})" if origins else ""
    console.note(
        f"{run.task}: {run.method.description}; learning rate {optimizer.learning_rate:g}{origin}, "
        f"batch {training.batch_size} x {training.accumulate}, seed {training.seed}; "
        f"{run.runtime.device}, {'fp32' if run.runtime.amp == 'off' else run.runtime.amp}, "
        f"{console.counted(run.runtime.threads or 1, 'thread')}"
    )


def _show_feature_cache(running: Running) -> None:
    cache = running.training.feature_cache
    if cache is None:
        return
    what = f"the frozen blocks' output of {len(cache.examples):,} examples: {console.size(cache.size)}"
    if cache.fits:
        console.note(f"keeps {what} in {cache.file}")
    elif cache.size > cache.limit:
        console.note(f"does not keep {what}, more than the {console.size(cache.limit)} of --feature-cache")
    else:
        console.warn(f"does not keep {what}, but the disk has {console.size(max(0, cache.free))} to spare")


def _show_plan(run: TrainRun, shape: Shape, origins: dict[str, str], json: bool) -> None:
    classes = TASKS[run.task].head_classes(run.method.needs_head)
    trainable = count(shape, run.method, classes).trainable
    if json:
        console.result_json({"config": run.to_json(), "origins": origins, "trainable": trainable})
        return
    rows = [(name, shown(run, name), origins[name]) for name in settings_of(run)]
    console.result_table(("setting", "value", "from"), rows)
    head = f", with a head of {classes} classes" if classes else ""
    console.result(f"trainable parameters: {trainable:,}{head}")


def _show_result(completed: Completed) -> None:
    result = completed.result
    show_scores("dev score", result.evaluation)
    console.result(
        f"{result.run}: {result.trainable:,} of {result.total:,} parameters trained "
        f"({result.share:.2%}), best at step {result.best_step} of {result.steps}, "
        f"{console.duration(result.seconds)}, {result.tokens_per_second:,.0f} tokens/s, "
        f"peak {console.size(result.peak_memory_bytes)}"
    )
    console.note(f"next: explora eval {result.task} {result.run}")
