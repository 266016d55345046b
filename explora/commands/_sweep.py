"""Run `explora train` with several values of an option: plan the cells, train them, rank them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explora import console
from explora.commands._precision import warn_if_emulated
from explora.commands._settings import SETTINGS
from explora.commands._sweep_options import Sweeping
from explora.commands._sweep_progress import following
from explora.commands._sweep_tables import cell_json, show_plan, show_result
from explora.core.runs.paths import check_utf8
from explora.core.runs.record import read_config
from explora.core.sweeps.cells import Crossing, cross
from explora.core.sweeps.outcomes import FAILURE_FILE, State
from explora.core.sweeps.plan import read_plan
from explora.core.sweeps.several import Several
from explora.core.sweeps.sharing import parse_shard
from explora.errors import Interrupted, TrainingError, UsageError
from explora.quantities import size

if TYPE_CHECKING:
    from explora.core.sweeps.run import Sweep

NAMED = 5  # cells, in an error


def sweep(
    task: str,
    settings: Mapping[str, Any],
    sweeping: Sweeping,
    *,
    output: Path | None,
    overwrite: bool,
    resume: bool,
    config: Path | None,
    dry_run: bool,
    json: bool,
    report: Path | None = None,
) -> None:
    """Train every cell of a sweep that has not finished, and rank the finished cells."""
    from explora.core.sweeps.run import open_sweep

    folder = output or Path("runs") / f"{task}-sweep"
    shard = None if sweeping.shard is None else parse_shard(sweeping.shard)
    if shard is not None and overwrite:
        raise UsageError(
            "--overwrite would remove the cells of other shards", f"remove {folder} yourself first"
        )
    crossing = _crossing(task, settings, sweeping, config, folder, resume=resume)
    for message in crossing.dropped:
        console.note(f"{message}: it is left out there")
    for cell in crossing.cells:
        check_utf8(cell.run, folder.resolve())
    for runtime in dict.fromkeys(cell.run.runtime for cell in crossing.cells):
        warn_if_emulated(runtime)
    opened = open_sweep(
        task,
        crossing.cells,
        folder,
        jobs=sweeping.jobs or 1,
        shard=shard,
        overwrite=overwrite,
        with_samples=report is not None,
    )
    for message in opened.skipped:
        console.warn(f"skipped: {message}")
    _warn_if_short(opened)
    if dry_run:
        show_plan(opened, json=json)
        return
    _train(opened, json=json)
    show_result(opened, json=json)
    if report is not None:
        from explora.commands._training_reports import report_sweep

        report_sweep(report, opened)
    _raise_failures(opened)


def _crossing(
    task: str,
    settings: Mapping[str, Any],
    sweeping: Sweeping,
    config: Path | None,
    folder: Path,
    *,
    resume: bool,
) -> Crossing:
    """Return the cells of the options; for --resume alone, the cells of the recorded plan."""
    recorded = read_plan(folder)
    if recorded is not None and recorded.task != task:
        raise UsageError(
            f"{folder} is a sweep of {recorded.task}, not of {task}", f"explora train {recorded.task} ..."
        )
    if resume and recorded is None:  # a job that a cluster starts again gives --resume from the beginning
        console.note(f"{folder} holds no sweep yet: starting one")
    if recorded is not None and resume and not settings and sweeping.seeds is None:
        return Crossing(cells=recorded.cells)
    of_task, from_file = read_config(config) if config else (task, {})
    if of_task != task:
        raise UsageError(f"{config} is a run of {of_task}, not of {task}", f"explora train {of_task}")
    return cross(task, _with_seeds(settings, from_file, sweeping.seeds or 1), from_file)


def _with_seeds(settings: Mapping[str, Any], from_file: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Return the settings with `count` seeds in a row."""
    if count == 1:
        return dict(settings)
    first = settings.get("seed", from_file.get("seed", SETTINGS["seed"][0].default))
    if isinstance(first, Several):
        raise UsageError(f"--seed {first} and --seeds {count} both choose the seeds", "leave one of them out")
    return {**settings, "seed": Several(range(first, first + count))}


def _warn_if_short(opened: Sweep) -> None:
    """Warn if the cells that are trained at once may need more memory than is available."""
    from explora.core.machine.facts import available_memory_bytes

    left = opened.with_state(State.WAITING, State.STOPPED, State.FAILED)
    on_cpu = [each for each in left if each.cell.run.runtime.device == "cpu"]
    sizes = sorted((each.forecast.memory_bytes or 0 for each in on_cpu), reverse=True)
    needed, available = sum(sizes[: opened.jobs]), available_memory_bytes()
    if needed > available:
        console.warn(
            f"{opened.jobs} cells at once will need up to {size(needed)}, and "
            f"{size(available)} are available: lower --jobs or --batch-size"
        )


def _train(opened: Sweep, *, json: bool) -> None:
    """Train and show the progress; on Ctrl-C or SIGTERM, let all cells save, and raise Interrupted."""
    done = opened.with_state(State.FINISHED)
    if done:
        console.note(f"{len(done)} of {len(opened.own)} cells have finished before")
    for progress in done if json else []:
        console.result_json(cell_json(progress))
    try:
        with following(opened, json=json) as show:
            for report in opened.events():
                progress = opened.own[report.name]
                show(progress, report)
                if json and report.event in ("finished", "failed"):
                    console.result_json(cell_json(progress))
    except Interrupted as interrupt:
        console.note("saving the cells in progress; a second signal ends them at once")
        _stop(opened)
        left = len(opened.own) - len(opened.with_state(State.FINISHED))
        interrupt.message = f"stopped with {left} of {len(opened.own)} cells left; their states are saved"
        interrupt.hint = "give the same command again to continue"
        raise


def _stop(opened: Sweep) -> None:
    try:
        opened.stop()
    except Interrupted:
        opened.kill()
        raise


def _raise_failures(opened: Sweep) -> None:
    failed = [each for each in opened.own.values() if each.outcome.state is not State.FINISHED]
    if not failed:
        return
    names = ", ".join(each.cell.name for each in failed[:NAMED]) + (", ..." if len(failed) > NAMED else "")
    raise TrainingError(
        f"{len(failed)} of {len(opened.own)} cells did not finish: {names}",
        f"the reasons are in {opened.folder}/*/{FAILURE_FILE}; the same command tries these cells again",
    )
