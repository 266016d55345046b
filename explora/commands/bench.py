"""`explora bench`: the methods side by side on this machine, each in a process of its own, and a verdict."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from explora import console
from explora.commands import _options as o
from explora.core.config import TrainRun
from explora.core.registry import METHODS, TASKS
from explora.core.resolving import resolve
from explora.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from explora.core.bench.rows import Row
    from explora.core.bench.running import Bench, Result

METHODS_COMPARED = "full,last-linear,lora"
RANKS_COMPARED = "4,8,16"
REPEATS = 3
COLUMNS = (
    "method", "trained", "share", "tokens/s", "range", "rows/s", "fwd/bwd/opt %", "memory", "file", "of peak",
)  # fmt: skip

Methods = Annotated[
    str,
    typer.Option(
        "--methods",
        metavar="NAME,...",
        rich_help_panel="Method",
        help=f"What is compared, of {', '.join(METHODS)}; lora once for each of --ranks.",
    ),
]
Ranks = Annotated[
    str, typer.Option("--ranks", metavar="R,...", rich_help_panel="Method", help="The ranks of LoRA.")
]
Peer = Annotated[
    bool,
    typer.Option(
        "--peer",
        metavar="",
        rich_help_panel="Method",
        help="Add transformers + peft on the same rows (needs the extra explora[peer]).",
    ),
]
Length = Annotated[
    int | None,
    typer.Option(
        "--length",
        metavar="TOKENS",
        min=8,
        rich_help_panel="Data",
        help="Fill or cut every row to this length, to see what it costs. Default: the rows as they are.",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps",
        metavar="N",
        min=1,
        rich_help_panel="Training",
        help="Timed steps of each cell, after two of warm-up. Default: by time, under 3 minutes in all.",
    ),
]
Repeats = Annotated[
    int,
    typer.Option(
        "--repeats", metavar="N", min=1, rich_help_panel="Training", help="How often each contender runs."
    ),
]


def parse_methods(text: str) -> list[str]:
    """`full,last_linear` -> ["full", "last-linear"]. Raises UsageError."""
    names = [name.strip().replace("_", "-") for name in text.split(",") if name.strip()]
    for name in names:
        if name not in METHODS:
            nearest = did_you_mean(name, METHODS)
            raise UsageError(f"no method {name!r}{nearest}", f"--methods {METHODS_COMPARED}")
    _check_distinct("--methods", names)
    return names


def parse_ranks(text: str) -> list[int]:
    """`4,8,16` -> [4, 8, 16]. Raises UsageError."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words:
        if not word.isdigit() or int(word) == 0:
            raise UsageError(f"--ranks: {word!r} is not a positive whole number", f"--ranks {RANKS_COMPARED}")
    _check_distinct("--ranks", words)
    return [int(word) for word in words]


def _check_distinct(option: str, words: list[str]) -> None:
    if not words or len(set(words)) != len(words):
        raise UsageError(f"{option} names at least one, and none twice")


def bench(
    task: o.Task = "paraphrase",
    model: o.Model = None,
    tokenizer: o.Tokenizer = None,
    methods: Methods = METHODS_COMPARED,
    ranks: Ranks = RANKS_COMPARED,
    targets: o.Targets = None,
    layers: o.Layers = None,
    peer: Peer = False,
    data: o.Data = None,
    columns: o.Columns = None,
    format: o.Format = None,
    skip_bad: o.SkipBad = None,
    length: Length = None,
    batch_size: o.BatchSize = None,
    steps: Steps = None,
    repeats: Repeats = REPEATS,
    seed: o.Seed = None,
    device: o.Device = None,
    amp: o.Amp = None,
    grad_checkpoint: o.GradCheckpoint = None,
    threads: o.Threads = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Measure whether LoRA pays off on this machine: speed, memory, file size, and a verdict.

    Every contender takes the first steps of a real training, on the same rows, in a process of its own, in
    turns. What a method learns is not measured here: that is `explora eval`.

    Examples:

    `explora bench`

    `explora bench sonnet --methods full,lora --ranks 8 --batch-size 4`

    `explora bench --model random:gpt2 --length 256 --grad-checkpoint --json`
    """
    settings = {
        "model": model,
        "tokenizer": tokenizer,
        "targets": targets,
        "layers": layers,
        "data": data,
        "columns": columns,
        "format": format,
        "skip_bad": skip_bad,
        "batch_size": batch_size,
        "seed": seed,
        "device": device,
        "amp": amp,
        "grad_checkpoint": grad_checkpoint,
        "threads": threads,
    }
    runs = _runs(task, o.given(settings), parse_methods(methods), parse_ranks(ranks))
    from explora.core.bench.running import Bench, Plan

    plan = Plan(runs=tuple(runs), repeats=repeats, steps=steps, length=length, peer=peer)
    with tempfile.TemporaryDirectory(prefix="explora-bench-") as scratch:
        result = _follow(Bench(plan, Path(scratch)))
    if json:
        console.result_json(
            {
                "rows": [row.to_json() for row in result.rows],
                "machine": result.machine,
                "verdict": " ".join(result.verdict),
            }
        )
        return
    _show(result)


def _runs(task: str, options: dict[str, Any], methods: list[str], ranks: list[int]) -> list[TrainRun]:
    """Resolve one run for each method and rank; what the task refuses is left out, and said."""
    refused = TASKS[task].refused
    runs: list[TrainRun] = []
    for method in methods:
        if method in refused:
            console.note(f"{method} is left out: {refused[method]}")
            continue
        chosen = [{"rank": rank} for rank in ranks] if method == "lora" else [{}]
        runs += [resolve(task, {**options, "method": method, **each})[0] for each in chosen]
    if not runs:
        raise UsageError(f"{task} can be trained by none of {', '.join(methods)}")
    return runs


def _follow(bench: Bench) -> Result:
    """Draw the events."""
    from explora.core.bench.running import CellDone

    run = bench.plan.runs[0]
    console.note(
        f"{run.task}: {bench.cells} cells on {bench.base.label}, {bench.examples:,} rows, "
        f"batch {run.training.batch_size}, {_precision(run.runtime.amp)}, {run.runtime.threads} threads"
    )
    with console.progress("bench", bench.cells) as advance:
        for event in bench.events():
            if not isinstance(event, CellDone):
                return event
            if event.error and event.is_new:
                console.warn(f"{event.contender}: {event.error}")
            speed = f"{event.tokens_per_second:,.0f} tokens/s"
            advance(event.done, f"{event.contender}  {'failed' if event.error else speed}")
    raise AssertionError("a bench ends with its result")


def _precision(amp: str) -> str:
    return "fp32" if amp == "off" else amp


def _show(result: Result) -> None:
    console.result_table(COLUMNS, [_cells(row) for row in result.rows])
    measured = [row for row in result.rows if row.spread is not None]
    first = measured[0]
    assert first.baseline_memory_bytes and first.matrix_peak
    peak = f"{first.matrix_peak / 1e9:,.0f} GFLOP/s"
    console.result(
        f"\n{first.steps} steps a cell, medians of {first.repeats}. Memory is the peak of the process; "
        f"{console.size(first.baseline_memory_bytes)} of it are Python and torch. The matrix peak is the "
        f"{peak} of a large product in {_precision(first.amp)}.\n"
    )
    for row in result.rows:
        if row.error:
            console.result(f"{row.name}: {row.error}")
    console.result("\n".join(result.verdict))


def _cells(row: Row) -> tuple[str, ...]:
    if row.spread is None:
        return (row.name, *["-"] * (len(COLUMNS) - 1))
    assert row.seconds and row.trainable and row.share and row.checkpoint_bytes
    assert row.tokens_per_second and row.examples_per_second and row.peak_memory_bytes and row.matrix_share
    low, high = row.spread.tokens_per_second
    parts = (row.seconds.forward, row.seconds.backward, row.seconds.optimizer)
    step = sum(parts) + row.seconds.other
    return (
        row.name,
        f"{row.trainable:,}",
        f"{100 * row.share:.3g} %",
        f"{row.tokens_per_second:,.0f}",
        f"{low:,.0f}-{high:,.0f}",
        f"{row.examples_per_second:,.1f}",
        "/".join(f"{100 * part / step:.0f}" for part in parts),
        console.size(row.peak_memory_bytes),
        console.size(row.checkpoint_bytes),
        f"{100 * row.matrix_share:.0f} %",
    )
