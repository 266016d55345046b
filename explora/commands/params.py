"""`explora params`: count parameters by part and predict file size and memory, without importing torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Any

import typer

from explora import console
from explora.commands import _memory
from explora.commands import _options as o
from explora.commands._memory import Alternative
from explora.commands._settings import METHOD, with_settings
from explora.core.config.precedence import resolve
from explora.core.config.registry import METHODS, MODELS, TASKS, Shape, method_class
from explora.core.config.run_config import TrainRun, foreign_settings
from explora.core.config.setting import spelled
from explora.core.config.values import parse_size
from explora.core.estimate.budget import with_one_row
from explora.core.estimate.parameters import Count, count
from explora.core.runs.adapter import Header, with_digest
from explora.errors import UsageError
from explora.quantities import size, sizes

# Stands in for the digest of a base that has not been read: the size of the file depends on its length only.
NO_DIGEST = "0" * 64

SHORT_ROWS = 64  # tokens; the hint of a budget proposes no shorter rows

WITH_HEAD = {name: row.classes for name, row in TASKS.items() if row.own_head}

Classes = Annotated[
    int | None,
    typer.Option(
        "--classes",
        metavar="N",
        min=2,
        rich_help_panel="Method",
        help="Number of classes of a task with a classification head (default: "
        f"{', '.join(f'{classes} for {name}' for name, classes in WITH_HEAD.items())}).",
    ),
]

Memory = Annotated[
    bool,
    typer.Option(
        "--memory",
        metavar="",
        rich_help_panel="Memory",
        help="Predict the peak memory of training, by part.",
    ),
]
Length = Annotated[
    int | None,
    typer.Option(
        "--length",
        metavar="T",
        min=1,
        rich_help_panel="Memory",
        help="Length of the longest rows in tokens (default: --max-length of the task).",
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        "--budget",
        metavar="SIZE",
        rich_help_panel="Memory",
        help="Choose batch size, accumulation and gradient checkpointing for this peak memory, such as 2GB, "
        "at the same number of rows per optimizer step (default: no limit).",
    ),
]


# What the memory of training depends on besides the method.
OF_MEMORY = ("optimizer", "batch_size", "accumulate", "dropout", "amp", "grad_checkpoint")


@with_settings("model", *METHOD, *OF_MEMORY, defaults={"amp": "off"})
def params(
    task: o.OptionalTask = o.USUAL_TASK,
    *,
    settings: dict[str, Any],
    classes: Classes = None,
    memory: Memory = False,
    budget: Budget = None,
    length: Length = None,
    json: o.Json = False,
) -> None:
    """Count the parameters that training updates, and the bytes of the file that it writes.

    The counts are exact. Without a method, LoRA is counted by part of the model and all methods are compared.

    `--memory` and `--budget` predict the peak memory of training, in fp32 unless you set `--amp`.

    Examples:

    `explora params --model gpt2`

    `explora params --model gpt2 --lora 8 --targets c_attn --layers 6-11`

    `explora params sentiment --model gpt2-xl --classes 2 --json`

    `explora params --model gpt2 --memory --batch-size 8 --length 256 --amp bf16`

    `explora params --model gpt2 --full --budget 3GB`
    """
    if classes is not None and task not in WITH_HEAD:
        raise UsageError(f"--classes belongs to {', '.join(WITH_HEAD)}; {task} has no classes to choose")
    wants_memory = memory or budget is not None
    if not wants_memory:
        _refuse_idle([*settings, *(["length"] if length is not None else [])])
    run = _resolve(task, settings)
    from explora.core.base.find import label_of, shape_of

    shape = shape_of(run.model)
    run.method.check_fit(shape)
    run.method.check_use(shape)
    counted = _count(run, shape, classes)
    choice, limit = None, None if budget is None else _positive_size(budget)
    if wants_memory:
        length = _length(length, run, shape)
        alternatives = _alternatives(run, settings, shape, length)
        choice = _memory.choose(run, shape, length, limit, classes=classes, alternatives=alternatives)
    if json:
        predicted = None if choice is None else choice.to_json(is_chosen=budget is not None)
        console.result_json(counted.to_json() | {"memory": predicted})
        return
    console.result(f"{label_of(run.model)}, {task}: {run.method.description}\n")
    if choice is not None:
        if limit is not None:
            _memory.show_budget(choice, shape, limit, classes, settings)
        _memory.show(choice)
        return
    _show_parts(counted)
    if "method" in settings:
        console.result(f"\n{_file(run)} about {size(counted.adapter_bytes)}")
        return
    console.result("")
    _show_methods([(each, _count(each, shape, classes)) for each, _ in _other_methods(task, settings)])


def _refuse_idle(names: list[str]) -> None:
    """Raise UsageError for an option that only matters with --memory."""
    for name in names:
        if name in (*OF_MEMORY, "length"):
            raise UsageError(f"--{spelled(name)} changes no number of parameters", "add --memory")


def _resolve(task: str, settings: dict[str, Any]) -> TrainRun:
    """Resolve a run, in fp32 by default: choosing a faster precision would need torch."""
    if settings.get("amp") == "auto":
        raise UsageError("--amp auto is for train: params measures nothing", "--amp bf16 or --amp off")
    return resolve(task, {"amp": "off"} | settings)[0]


def _length(asked: int | None, run: TrainRun, shape: Shape) -> int:
    """Return the length of the longest rows in tokens, by default the largest that is allowed."""
    if asked is not None and asked > shape.n_positions:
        raise UsageError(f"--length {asked}: the base reads at most {shape.n_positions} tokens")
    return asked or min(run.encoding.max_length, shape.n_positions)


def _positive_size(text: str) -> int:
    """Return the bytes of --budget. Raises UsageError."""
    if size := parse_size(text):
        return size
    raise UsageError(f"--budget {text} leaves nothing", "--budget 2GB")


def _alternatives(
    run: TrainRun, settings: dict[str, Any], shape: Shape, length: int
) -> Iterator[Alternative]:
    """Yield changes that save memory: those that keep the method first, then the other methods."""

    with suppress(UsageError):  # not every method trains with Muon
        muon = settings | {"optimizer": "muon"}
        yield Alternative(_resolve(run.task, muon), muon, shape, length)
    for shorter in (length // 2, length // 4):
        if shorter >= SHORT_ROWS:
            yield Alternative(run, settings, shape, shorter)
    for name in _smaller_bases(run.model, shape):
        with suppress(UsageError):  # --layers may name blocks that this base does not have
            smaller, small = settings | {"model": name}, MODELS[name].shape
            run.method.check_fit(small)
            yield Alternative(_resolve(run.task, smaller), smaller, small, length)
    yield Alternative(with_one_row(run), settings, shape, length)
    for other, own in _other_methods(run.task, settings):
        yield Alternative(other, own, shape, length)


def _smaller_bases(model: str, shape: Shape) -> list[str]:
    """Return the published bases that are smaller than a published one, the largest first."""

    def size_of(each: Shape) -> int:
        return each.n_layer * each.n_embd**2

    names = [name for name, row in MODELS.items() if size_of(row.shape) < size_of(shape)]
    return sorted(names, key=lambda name: -size_of(MODELS[name].shape)) if model in MODELS else []


def _other_methods(task: str, settings: dict[str, Any]) -> Iterator[tuple[TrainRun, dict[str, Any]]]:
    """Yield a run of each method of a task with its settings, without the options that it does not take."""
    for method in METHODS:
        if TASKS[task].refuses(method_class(method)):
            continue
        foreign = foreign_settings(method_class(method), settings)
        own = {name: value for name, value in settings.items() if name not in foreign} | {"method": method}
        yield _resolve(task, own), own


def _count(run: TrainRun, shape: Shape, classes: int | None) -> Count:
    width = TASKS[run.task].head_classes(run.method.needs_head, classes)
    labels = tuple(map(str, range(width)))
    header = Header(
        task=run.task,
        method=run.method,
        base=run.model,
        base_digest=NO_DIGEST,
        encoding=run.encoding,
        labels=labels,
    )
    return count(shape, run.method, classes=len(labels), header=with_digest(header.to_json(), {}))


def _file(run: TrainRun) -> str:
    return "model file:" if run.method.trains_base else "adapter file:"


def _show_parts(counted: Count) -> None:
    rows = [(name, f"{part.total:,}", f"{part.trainable:,}") for name, part in counted.parts.items()]
    total = ("all", f"{counted.total:,}", f"{counted.trainable:,}")
    console.result_table(("part", "parameters", "trained"), [*rows, total])
    console.result(f"\ntrained: {100 * counted.share:.4g} % of the model")


def _show_methods(counts: list[tuple[TrainRun, Count]]) -> None:
    files = sizes([counted.adapter_bytes for _, counted in counts])
    rows = [
        (run.method.name, f"{counted.trainable:,}", f"{100 * counted.share:.4g} %", file)
        for (run, counted), file in zip(counts, files, strict=True)
    ]
    console.result_table(("method", "trained", "share", "file, about"), rows)
