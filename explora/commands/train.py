"""`explora train`: options to a TrainRun, the run's events to a bar, its result to stdout."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from explora import console
from explora.commands import _options as o
from explora.commands._environment import prepare_training
from explora.commands._following import follow
from explora.commands._memory import warn_if_short
from explora.commands._parsing import given, parse_method, shown
from explora.commands._precision import warn_if_emulated
from explora.commands._scores import show_scores
from explora.core.config.precedence import fit_learning_rate, resolve
from explora.core.config.registry import Shape
from explora.core.config.run_config import TrainRun, settings_of, spelled
from explora.core.estimate.parameters import check_rank, count, head_classes
from explora.core.runs.record import read_config, read_losses
from explora.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from explora.core.runs.train import Completed, Running

SHAPE_FIELDS = {
    "layers": "n_layer",
    "heads": "n_head",
    "width": "n_embd",
    "context": "n_positions",
    "vocabulary": "vocab_size",
}


def parse_shape(text: str) -> Shape:
    """`layers=6,heads=4,width=256,context=512,vocabulary=8192` -> Shape. Raises UsageError."""
    example = "--from-scratch layers=6,heads=4,width=256,context=512,vocabulary=8192"
    values: dict[str, int] = {}
    for part in text.split(","):
        name, _, number = (piece.strip() for piece in part.partition("="))
        if name not in SHAPE_FIELDS:
            raise UsageError(f"--from-scratch has no {name!r}{did_you_mean(name, SHAPE_FIELDS)}", example)
        if not number.isdigit() or int(number) == 0:
            raise UsageError(
                f"--from-scratch: {name} should be a positive whole number, not {number!r}", example
            )
        values[SHAPE_FIELDS[name]] = int(number)
    missing = [name for name, key in SHAPE_FIELDS.items() if key not in values]
    if missing:
        raise UsageError(f"--from-scratch does not say {', '.join(missing)}", example)
    shape = Shape(**values)
    if shape.n_embd % shape.n_head:
        raise UsageError(
            f"--from-scratch: {shape.n_head} heads do not divide a width of {shape.n_embd}", example
        )
    return shape


FromScratch = Annotated[
    str | None,
    typer.Option(
        "--from-scratch",
        metavar="SHAPE",
        rich_help_panel="Model",
        help="Train a new base on plain text: layers=6,heads=4,width=256,context=512,vocabulary=8192.",
    ),
]


def train(
    task: o.Task,
    model: o.Model = None,
    tokenizer: o.Tokenizer = None,
    from_scratch: FromScratch = None,
    lora: o.LoraRank = None,
    full: o.Full = False,
    last_linear: o.LastLinear = False,
    alpha: o.Alpha = None,
    lora_dropout: o.LoraDropout = None,
    targets: o.Targets = None,
    layers: o.Layers = None,
    data: o.Data = None,
    dev: o.Dev = None,
    columns: o.Columns = None,
    format: o.Format = None,
    skip_bad: o.SkipBad = None,
    template: o.Template = None,
    label_words: o.LabelWords = None,
    max_length: o.MaxLength = None,
    learning_rate: o.LearningRate = None,
    optimizer: o.Optimizer = None,
    weight_decay: o.WeightDecay = None,
    beta1: o.Beta1 = None,
    beta2: o.Beta2 = None,
    clip: o.Clip = None,
    warmup: o.Warmup = None,
    schedule: o.Schedule = None,
    epochs: o.Epochs = None,
    max_steps: o.MaxSteps = None,
    max_minutes: o.MaxMinutes = None,
    batch_size: o.BatchSize = None,
    accumulate: o.Accumulate = None,
    dropout: o.Dropout = None,
    seed: o.Seed = None,
    eval_every: o.EvalEvery = None,
    save_every: o.SaveEvery = None,
    patience: o.Patience = None,
    device: o.Device = None,
    amp: o.Amp = None,
    grad_checkpoint: o.GradCheckpoint = None,
    threads: o.Threads = None,
    plain_attention: o.PlainAttention = None,
    feature_cache: o.FeatureCache = None,
    output: o.Output = None,
    overwrite: o.Overwrite = False,
    resume: o.Resume = False,
    config: o.Config = None,
    dry_run: o.DryRun = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Train an adapter, a head or the whole model.

    The run folder (-o, by default runs/TASK) is a PEFT adapter with a model card, run.json and metrics.jsonl.

    Examples:

    `explora train paraphrase --lora 8`

    `explora train sentiment --data sst --full --epochs 3`

    `explora train sonnet --data poems.txt --lora 16 -o runs/poems`

    `explora train paraphrase --resume`
    """
    began = time.monotonic()
    prepare_training()
    settings: dict[str, Any] = {
        "model": model,
        "tokenizer": tokenizer,
        "from_scratch": None if from_scratch is None else parse_shape(from_scratch),
        "alpha": alpha,
        "lora_dropout": lora_dropout,
        "targets": targets,
        "layers": layers,
        "data": data,
        "dev": dev,
        "columns": columns,
        "format": format,
        "skip_bad": skip_bad,
        "template": template,
        "label_words": label_words,
        "max_length": max_length,
        "learning_rate": learning_rate,
        "optimizer": optimizer,
        "weight_decay": weight_decay,
        "beta1": beta1,
        "beta2": beta2,
        "clip": clip,
        "warmup": warmup,
        "schedule": schedule,
        "epochs": epochs,
        "max_steps": max_steps,
        "max_minutes": max_minutes,
        "batch_size": batch_size,
        "accumulate": accumulate,
        "dropout": dropout,
        "seed": seed,
        "eval_every": eval_every,
        "save_every": save_every,
        "patience": patience,
        "device": device,
        "amp": amp,
        "grad_checkpoint": grad_checkpoint,
        "threads": threads,
        "plain_attention": plain_attention,
        "feature_cache": feature_cache,
    }
    options = given(settings) | parse_method(lora, full, last_linear)
    of_task, from_file = read_config(config) if config else (task, {})
    if of_task != task:
        raise UsageError(f"{config} is a run of {of_task}, not of {task}", f"explora train {of_task}")
    run, origins = resolve(task, options, from_file)
    shape = _shape(run)  # for a hub id a request
    if not resume:  # a run that goes on has its learning rate
        run, origins = fit_learning_rate(run, origins, shape.n_embd)
    check_rank(shape, run.method)
    _check_length(run, shape, origins)
    if dry_run:
        _show_plan(run, shape, origins, json)
        return
    folder = output or Path("runs") / task
    _execute(run, origins, folder, options, began, resume=resume, overwrite=overwrite, json=json)


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
    options: dict[str, Any],
    began: float,
    *,
    resume: bool,
    overwrite: bool,
    json: bool,
) -> None:
    from explora.core.runs.train import Running, check_folder

    started = check_folder(folder, resume=resume, overwrite=overwrite)
    run = run if started is None else _resumed(started, run, options)
    warn_if_emulated(run.runtime, is_recorded=started is not None)
    run = _with_runtime(run)
    _show_settings(run, origins if started is None else {})
    running = Running(run, folder, replace=overwrite, spent=time.monotonic() - began)
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
        console.result_json(completed.result)
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
    if started.task != asked.task:
        raise UsageError(
            f"--resume: the folder holds a run of {started.task}, not of {asked.task}",
            f"explora train {started.task} --resume",
        )
    before, now = settings_of(started), settings_of(asked)
    for name in options:
        if before[name] != now[name] and name != "threads":
            raise UsageError(
                f"--resume goes on {_said(name, before[name])}, not with {shown(name, now[name])}",
                "leave the option out, or start again with --overwrite",
            )
    if "threads" not in options:
        return started
    return replace(started, runtime=replace(started.runtime, threads=asked.runtime.threads))


def _said(name: str, value: Any) -> str:
    return f"without {spelled(name)}" if value is None else f"with {spelled(name)} {shown(name, value)}"


def _with_runtime(run: TrainRun) -> TrainRun:
    from explora.core.runtime.resolve import resolve_runtime

    return replace(run, runtime=resolve_runtime(run.runtime))


def _show_settings(run: TrainRun, origins: dict[str, str]) -> None:
    method, optimizer, training = run.method, run.optimizer, run.training
    what = method.method
    if what == "lora":
        what += f" r={method.rank}, scale {method.scale:g}, on {','.join(method.targets)}"
    origin = f" ({origins['learning_rate']})" if origins else ""
    console.note(
        f"{run.task}: {what}; learning rate {optimizer.learning_rate:g}{origin}, "
        f"batch {training.batch_size} x {training.accumulate}, seed {training.seed}; "
        f"{run.runtime.device}, {'fp32' if run.runtime.amp == 'off' else run.runtime.amp}, "
        f"{run.runtime.threads} threads"
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
    classes = head_classes(run.task, run.method.method)
    trainable = count(shape, run.method, classes).trainable
    if json:
        console.result_json({"config": run.to_json(), "origins": origins, "trainable": trainable})
        return
    values = settings_of(run)
    if run.method.method == "lora" and run.method.alpha is None:
        values["alpha"] = run.method.scale * run.method.rank
    rows = [(name, shown(name, value), origins[name]) for name, value in values.items()]
    console.result_table(("setting", "value", "from"), rows)
    head = f", with a head of {classes} classes" if classes else ""
    console.result(f"trainable parameters: {trainable:,}{head}")


def _show_result(completed: Completed) -> None:
    result = completed.result
    show_scores("dev score", completed.evaluation)
    console.result(
        f"{result['run']}: {result['trainable']:,} of {result['total']:,} parameters trained "
        f"({result['share']:.2%}), best at step {result['best_step']} of {result['steps']}, "
        f"{console.duration(result['seconds'])}, {result['tokens_per_second']:,.0f} tokens/s, "
        f"peak {console.size(result['peak_memory_bytes'])}"
    )
