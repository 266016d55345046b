"""`explora params`: how many parameters, in which parts, and how large a file. Torch is never imported."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from explora import console
from explora.commands import _options as o
from explora.core.adapters import Header
from explora.core.config import TrainRun, foreign_settings
from explora.core.counting import SENTIMENT_CLASSES, Count, count, head_classes
from explora.core.registry import METHODS, TASKS, Shape
from explora.core.resolving import resolve
from explora.errors import UsageError

# Stands in for the digest of a base that nobody has read yet: the file's size depends on its length alone.
NO_DIGEST = "0" * 64

Classes = Annotated[
    int | None,
    typer.Option(
        "--classes",
        metavar="N",
        min=2,
        rich_help_panel="Method",
        help=f"How many classes sentiment tells apart (default {SENTIMENT_CLASSES}).",
    ),
]


def params(
    task: o.Task = "paraphrase",
    model: o.Model = None,
    lora: o.LoraRank = None,
    full: o.Full = False,
    last_linear: o.LastLinear = False,
    alpha: o.Alpha = None,
    targets: o.Targets = None,
    layers: o.Layers = None,
    classes: Classes = None,
    json: o.Json = False,
) -> None:
    """Count parameters exactly, by part and method, and the bytes of the file that training writes.

    The task gives the default targets and the head. Without a method, LoRA is counted and all methods are
    compared.

    Examples:

    `explora params --model gpt2`

    `explora params --model gpt2 --lora 8 --targets c_attn --layers 6-11`

    `explora params sentiment --model gpt2-xl --classes 2 --json`
    """
    if classes is not None and task != "sentiment":
        raise UsageError(f"--classes belongs to sentiment; {task} has no classes to choose")
    method = o.parse_method(lora, full, last_linear)
    options = {"model": model, "alpha": alpha, "targets": targets, "layers": layers}
    given = o.given(options) | method
    run, _ = resolve(task, given)
    from explora.core.sources import label_of, shape_of

    shape = shape_of(run.model)
    counted = _count(run, shape, classes)
    if json:
        console.result_json(_to_json(counted))
        return
    console.result(f"{label_of(run.model)}, {task}: {_describe(run)}\n")
    _show_parts(counted)
    if method:
        console.result(f"\n{_file(run)} about {console.size(counted.adapter_bytes)}")
        return
    console.result("")
    runs = [_with_method(task, name, given) for name in METHODS if name not in TASKS[task].refused]
    _show_methods([(each, _count(each, shape, classes)) for each in runs])


def _with_method(task: str, method: str, given: dict[str, Any]) -> TrainRun:
    """Resolve a run of another method, without the options that it has no use for."""
    foreign = foreign_settings(method, given)
    return resolve(task, {name: given[name] for name in given if name not in foreign} | {"method": method})[0]


def _count(run: TrainRun, shape: Shape, classes: int | None) -> Count:
    labels = tuple(str(label) for label in range(head_classes(run.task, run.method.method, classes)))
    header = Header(
        task=run.task,
        method=run.method,
        base=run.model,
        base_digest=NO_DIGEST,
        encoding=run.encoding,
        labels=labels,
    )
    return count(shape, run.method, classes=len(labels), header=header.to_json())


def _to_json(counted: Count) -> dict[str, object]:
    return {
        "total": counted.total,
        "trainable": counted.trainable,
        "share": counted.share,
        "adapter_bytes": counted.adapter_bytes,
        "parts": {
            name: {"total": part.total, "trainable": part.trainable} for name, part in counted.parts.items()
        },
    }


def _describe(run: TrainRun) -> str:
    method = run.method
    if method.method != "lora":
        return method.method
    where = f", blocks {method.layers[0]}-{method.layers[1]}" if method.layers else ""
    return f"lora r={method.rank} (scale {method.scale:g}) on {', '.join(method.targets)}{where}"


def _file(run: TrainRun) -> str:
    return "model file:" if METHODS[run.method.method].trains_base else "adapter file:"


def _show_parts(counted: Count) -> None:
    rows = [(name, f"{part.total:,}", f"{part.trainable:,}") for name, part in counted.parts.items()]
    total = ("all", f"{counted.total:,}", f"{counted.trainable:,}")
    console.result_table(("part", "parameters", "trained"), [*rows, total])
    console.result(f"\ntrained: {100 * counted.share:.4g} % of the base")


def _show_methods(counts: list[tuple[TrainRun, Count]]) -> None:
    rows = [
        (
            run.method.method,
            f"{counted.trainable:,}",
            f"{100 * counted.share:.4g} %",
            console.size(counted.adapter_bytes),
        )
        for run, counted in counts
    ]
    console.result_table(("method", "trained", "share", "file, about"), rows)
