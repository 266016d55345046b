"""`explora bench`: measure methods side by side, each in its own process, and write a verdict."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from explora import console
from explora.commands import _bench_options as b
from explora.commands import _options as o
from explora.commands._advice import advise_here, refuse_without_advise
from explora.commands._checking import check_here
from explora.commands._environment import prepare_training
from explora.commands._precision import warn_if_emulated
from explora.commands._reports import ReportFile, check_report, save_report, this_command
from explora.commands._settings import given, with_settings
from explora.core.bench.measurements import Contender
from explora.core.bench.plan import Plan
from explora.core.config.precedence import fit_learning_rate, resolve
from explora.core.config.registry import TASKS, method_class
from explora.core.config.run_config import TrainRun, foreign_settings, method_settings, methods_with
from explora.core.config.setting import spelled
from explora.errors import UsageError
from explora.quantities import counted, duration

if TYPE_CHECKING:
    from explora.core.bench.run import Bench, Result


SETTINGS = (
    *("model", "tokenizer", *(name for name in method_settings() if name != "rank")),
    *("data", "columns", "format", "encoding", "skip_bad", "seed", "device", "threads"),
)


@with_settings(*SETTINGS)
def bench(
    context: typer.Context,
    task: o.OptionalTask = o.USUAL_TASK,
    *,
    methods: b.Methods = None,
    ranks: b.Ranks = None,
    peer: b.Peer = False,
    settings: dict[str, Any],
    batch_sizes: b.BatchSizes = None,
    lengths: b.Lengths = None,
    amp: b.Amps = None,
    grad_checkpoint: b.GradCheckpoints = None,
    steps: b.Steps = None,
    repeats: b.Repeats = b.REPEATS,
    quality: b.Quality = False,
    quality_steps: b.QualitySteps = None,
    check: b.Check = False,
    advise: b.Advise = False,
    ram: b.Ram = None,
    minutes: b.Minutes = None,
    examples: b.Examples = None,
    report: ReportFile = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Measure whether LoRA is worth using on this machine: speed, memory, file size, and a verdict.

    Each method trains the first steps of a real run on the same rows. Methods take turns, each in a process
    of its own. They are compared at equal batch size, length, precision and gradient checkpointing.

    Examples:

    `explora bench`

    `explora bench sonnet --methods full,lora --ranks 8 --quality --report sonnet.html`

    `explora bench --model random:gpt2 --lengths 64,256 --grad-checkpoint on,off --json`

    `explora bench --check`

    `explora bench sentiment --data sst --advise --ram 2GB --minutes 30`
    """
    prepare_training()
    if check:
        check_here(context, json=json)
        return
    if advise:
        advise_here(context, task, settings, json=json)
        return
    refuse_without_advise(context)
    names = b.parse_methods(methods or b.METHODS_COMPARED)
    chosen = names, _ranks(ranks, names)
    matrix = _Matrix(
        batch_sizes=b.parse_numbers("--batch-sizes", batch_sizes, "4,8") if batch_sizes else [None],
        lengths=b.parse_numbers("--lengths", lengths, "64,256", least=8) if lengths else [None],
        amps=b.parse_amps(amp) if amp else [None],
        grad_checkpoints=b.parse_switch("--grad-checkpoint", grad_checkpoint) if grad_checkpoint else [None],
    )
    if report is not None:
        check_report(report, reads=[settings.get("data"), settings.get("dev")])
    plan = Plan(
        contenders=tuple(_contenders(task, settings, matrix, *chosen)),
        repeats=repeats,
        steps=steps,
        peer=peer,
        learning=quality or quality_steps is not None,
        lesson_steps=quality_steps,
    )
    for runtime in {each.run.runtime.amp: each.run.runtime for each in plan.contenders}.values():
        warn_if_emulated(runtime)
    _run(plan, report, json=json)


def _ranks(text: str | None, methods: list[str]) -> list[int]:
    """Return the ranks to compare. Raises UsageError if they are given and no method has a rank."""
    users = methods_with("rank")
    if text is not None and not set(users) & set(methods):
        raise UsageError("none of the --methods takes --ranks", f"methods with a rank: {', '.join(users)}")
    return b.parse_numbers("--ranks", b.RANKS_COMPARED if text is None else text, b.RANKS_COMPARED)


@dataclass(frozen=True, kw_only=True)
class _Matrix:
    """The settings at which every method is measured; None: the default of the task."""

    batch_sizes: Sequence[int | None]
    lengths: Sequence[int | None]
    amps: Sequence[str | None]
    grad_checkpoints: Sequence[bool | None]

    def settings(self) -> Iterator[tuple[dict[str, Any], int | None]]:
        """Yield options and length of each setting."""
        for size, length, amp, again in product(
            self.batch_sizes, self.lengths, self.amps, self.grad_checkpoints
        ):
            yield {"batch_size": size, "amp": amp, "grad_checkpoint": again}, length


def _contenders(
    task: str, options: dict[str, Any], matrix: _Matrix, methods: list[str], ranks: list[int]
) -> Iterator[Contender]:
    """Yield every method and rank at every setting; leave out, with a note, methods that the task refuses.

    Each method takes those of the options that it has.
    """
    row = TASKS[task]
    reasons = {name: row.refuses(method_class(name)) for name in methods}
    allowed = [name for name in methods if not reasons[name]]
    for name in methods:
        if reasons[name]:
            console.note(f"{name} is left out: {reasons[name]}")
    if not allowed:
        raise UsageError(f"{task} can be trained by none of {', '.join(methods)}")
    _refuse_idle(options, allowed)
    variants = [
        {**_without_foreign(options, name), "method": name, **rank}
        for name in allowed
        for rank in ([{"rank": rank} for rank in ranks] if name in methods_with("rank") else [{}])
    ]
    for setting, length in matrix.settings():
        for variant in variants:
            yield Contender(run=_resolved(task, {**variant, **given(setting)}), length=length)


def _without_foreign(options: dict[str, Any], method: str) -> dict[str, Any]:
    foreign = {*foreign_settings(method_class(method), options)}
    return {name: value for name, value in options.items() if name not in foreign}


def _refuse_idle(options: dict[str, Any], methods: list[str]) -> None:
    """Raise UsageError for an option that none of the methods has."""
    for name in options:
        users = methods_with(name)
        if users and not set(users) & set(methods):
            raise UsageError(
                f"none of the --methods has --{spelled(name)}: that belongs to {', '.join(users)}"
            )


def _resolved(task: str, options: dict[str, Any]) -> TrainRun:
    from explora.core.base.find import shape_of

    run, origins = resolve(task, options)
    return fit_learning_rate(run, origins, shape_of(run.model).n_embd)[0]


def _run(plan: Plan, report: Path | None, *, json: bool) -> None:
    from explora.core.bench.run import open_bench

    with tempfile.TemporaryDirectory(prefix="explora-bench-") as scratch:
        result = _follow(open_bench(plan, Path(scratch)))
    if json:
        console.result_json(result.to_json())
    else:
        _show(result)
    if report is not None:
        from explora.core.reports.benchmark import bench_report

        save_report(report, bench_report(this_command(), result))


def _follow(bench: Bench) -> Result:
    """Measure, show the progress, and return the result."""
    plan, run = bench.plan, bench.plan.contenders[0].run
    threads = run.runtime.threads or 1
    console.note(
        f"{run.task}: {counted(plan.cells, 'cell')} on {bench.base.label}, "
        f"{counted(bench.examples, 'row')}, {counted(threads, 'thread')}"
        f"{_about(plan.expected_seconds)}"
    )
    for setting in plan.settings:
        console.note(setting.described(list(setting.words())))
    with console.progress("bench", plan.cells) as advance:
        for cell in bench.measure():
            if cell.error and cell.is_new:
                console.warn(f"{cell.contender}: {cell.error}")
            speed = f"{cell.tokens_per_second:,.0f} tokens/s"
            advance(cell.done, f"{cell.contender}  {'failed' if cell.error else speed}")
    if plan.learning:
        _follow_learning(bench)
    return bench.result()


def _follow_learning(bench: Bench) -> None:
    lessons, seconds = bench.lessons()
    console.note(f"{counted(lessons, 'training')}{_about(seconds)} and their scores")
    with console.progress("learn", lessons) as advance:
        for lesson in bench.learn():
            if lesson.learned is None:
                console.warn(f"{lesson.contender} has no score: {lesson.error}")
                continue
            learned, end = lesson.learned, lesson.learned.equal_steps
            facts = f"{lesson.contender}  {learned.metric} {end.score:.4g} after {end.steps} steps"
            advance(lesson.done, facts)


def _about(seconds: float | None) -> str:
    return "" if seconds is None else f", about {duration(seconds)}"


def _show(result: Result) -> None:
    from explora.core.reports.bench_tables import tables_of
    from explora.core.reports.benchmark import legend

    for table in tables_of(result):
        console.result(table.title)
        console.result_table(table.header, table.lines)
        console.result("")
    failed = [f"{row.name}: {row.error}" for row in result.rows if row.error]
    console.result("\n".join([*legend(result), *failed, "", *result.verdict]))
