"""`explora train`: plan a run, train it with a progress bar, and write its result to stdout."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explora import console
from explora.commands import _options as o
from explora.commands._dry_run import check_data, show_plan
from explora.commands._environment import prepare_training
from explora.commands._following import before_first_step, follow
from explora.commands._memory import explaining_shortage
from explora.commands._observing import Track, Watching, observing
from explora.commands._plain_text import warn_if_tables
from explora.commands._planning import Plan, plan_new, plan_rest, resume_settings
from explora.commands._precision import warn_if_emulated
from explora.commands._reports import ReportFile, check_report
from explora.commands._run_facts import show_settings, show_start
from explora.commands._settings import (
    DATA,
    MACHINE,
    METHOD,
    MODEL,
    OPTIMIZER,
    START,
    TRAINING,
    with_settings,
)
from explora.commands._sweep import sweep
from explora.commands._sweep_options import Jobs, Seeds, ShardText, Sweeping, is_sweep
from explora.commands._training_result import show_result
from explora.core.machine.launch import rank, world_size
from explora.core.runs.folder import check_folder, recorded_run
from explora.core.runs.ownership import owning
from explora.core.runs.phases import LENGTH, dropped_limit, longer
from explora.core.runs.record import RunRecord
from explora.core.runs.tracking import check_tracker
from explora.errors import AdapterError, UsageError

if TYPE_CHECKING:
    from explora.core.runtime.processes import Processes


@with_settings(*DATA, *MODEL, *START, *METHOD, *TRAINING, *OPTIMIZER, *MACHINE, sweeps=True)
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
    seeds: Seeds = None,
    jobs: Jobs = None,
    shard: ShardText = None,
    report: ReportFile = None,
    track: Track = None,
) -> None:
    """Train an adapter, a head or the whole model.

    The run folder holds the adapter or model, a model card, run.json and metrics.jsonl. PEFT opens the
    adapter if PEFT has the method.

    Several values of an option make a sweep: one run per combination, by default in runs/TASK-sweep.
    Separate numbers and names by commas; repeat options that take a path, a text or a list.

    Examples:

    `explora train paraphrase --lora 8`

    `explora train sentiment --data sst --full --epochs 3`

    `explora train sonnet --data poems.txt --lora 16 -o runs/poems`

    `explora train paraphrase --resume`

    `explora train paraphrase --lora 4,8,16 --lr 3e-4,1e-3 --seeds 3`
    """
    began = time.monotonic()
    prepare_training()
    folder = output or Path("runs") / task
    if resume and overwrite:
        raise UsageError("--resume continues a run and --overwrite removes it", "choose one of them")
    if resume and config:
        raise UsageError("--resume continues with the recorded settings", "leave --config out")
    if report is not None:
        read = [settings.get("data"), settings.get("dev"), config]
        check_report(report, reads=read, run_folder=folder)
    if track is not None:
        check_tracker(track)
    sweeping = Sweeping(seeds=seeds, jobs=jobs, shard=shard)
    if is_sweep(settings, sweeping, output, resume=resume):
        if track is not None:
            raise UsageError("--track follows a single run", "leave --track out: --report shows all cells")
        if world_size() > 1:
            raise UsageError(
                "a sweep does not run on torchrun",
                "--jobs N trains N runs at once, --shard i/n shares a sweep among machines",
            )
        sweep(
            task,
            settings,
            sweeping,
            output=output,
            overwrite=overwrite,
            resume=resume,
            config=config,
            dry_run=dry_run,
            json=json,
            report=report,
        )
        return
    with ExitStack() as ownership:
        plan = None
        if rank() == 0:  # of several processes, the leading one plans for all
            plan = _plan(
                task,
                settings,
                folder,
                ownership,
                overwrite=overwrite,
                resume=resume,
                config=config,
                dry_run=dry_run,
                json=json,
            )
        if plan is not None or world_size() > 1:
            watching = Watching(with_samples=report is not None, track=track)
            _execute(plan, folder, began, watching, overwrite=overwrite, json=json)
        if report is not None and rank() == 0 and not dry_run:
            _report(report, folder)


def _plan(
    task: str,
    settings: dict[str, Any],
    folder: Path,
    ownership: ExitStack,
    *,
    overwrite: bool,
    resume: bool,
    config: Path | None,
    dry_run: bool,
    json: bool,
) -> Plan | None:
    """Own the folder and plan its run. If there is nothing to train, show why and return None."""
    record = None
    if resume:  # the record in the folder decides what remains to be done
        ownership.enter_context(nullcontext() if dry_run else owning(folder))
        record = _recorded(folder, task)
    if record is not None and record.finished:
        more = longer(record, settings)
        if more is None:  # a shorter length is no contradiction
            settings = {name: value for name, value in settings.items() if name not in LENGTH}
        if more is None and not dry_run:
            resume_settings(record.run, settings)
            _show_recorded(folder, record.result, json)
            return None
        if more is not None and (limit := dropped_limit(record.run.training, more.training)):
            console.note(f"the new length replaces the earlier limit of {limit}")
        record = replace(record, run=more or record.run)
    plan = plan_new(task, settings, config) if record is None else plan_rest(record.run, settings, folder)
    if dry_run:
        if overwrite:
            _tell_what_goes(folder)
        check_data(plan.run)
        show_plan(plan, json)
        return None
    if not resume:
        ownership.enter_context(owning(folder))
        check_folder(folder, overwrite=overwrite)
    return plan


def _tell_what_goes(folder: Path) -> None:
    """Show what --overwrite would replace. Raises UsageError for a folder that it does not replace."""
    check_folder(folder, overwrite=True)
    try:
        record = recorded_run(folder)
    except AdapterError as damaged:
        console.note(f"--overwrite would replace {folder}: {damaged.message}")
        return
    if record is None:
        console.note(f"{folder} is new or empty: there is nothing to replace")
        return
    state = "a finished" if record.finished else "an unfinished"
    console.note(f"--overwrite would replace {state} run of {record.run.task} in {folder}")


def _recorded(folder: Path, task: str) -> RunRecord | None:
    """Return the record of the run to resume, None if there is none. Raises UsageError for another task."""
    record = recorded_run(folder)
    if record is None:
        console.note(f"{folder} has no run yet: starting one")
        return None
    if record.run.task != task:
        raise UsageError(
            f"--resume: the run in {folder} is of {record.run.task}, not of {task}",
            f"explora train {record.run.task} -o {folder} --resume",
        )
    return record


def _report(file: Path, folder: Path) -> None:
    """Write the report of a finished run."""
    from explora.commands._training_reports import report_run

    report_run(file, folder)


def _execute(
    plan: Plan | None, folder: Path, began: float, watching: Watching, *, overwrite: bool, json: bool
) -> None:
    """Train the run that the leading process has planned."""
    from explora.core.runtime.processes import joined_processes

    with joined_processes() as processes:
        plan = processes.decide(plan)
        if plan is not None:
            _train(plan, folder, began, watching, processes, overwrite=overwrite, json=json)


def _train(
    plan: Plan,
    folder: Path,
    began: float,
    watching: Watching,
    processes: Processes,
    *,
    overwrite: bool,
    json: bool,
) -> None:
    from explora.core.runs.train import start_run
    from explora.core.runtime.resolve import with_resolved_runtime

    warn_if_emulated(plan.run.runtime, is_recorded=plan.resumed)
    warn_if_tables(plan.run.task, plan.run.data)
    with before_first_step(is_resumed=plan.resumed, can_repeat=plan.resumed or overwrite):
        run = processes.decide(with_resolved_runtime(plan.run) if processes.leads else plan.run)
        if not processes.leads:
            run = with_resolved_runtime(run)  # threads and the like, as the leading process has measured them
        show_settings(run, "" if plan.resumed else f" ({plan.origins['learning_rate']})", processes.size)
        spent = time.monotonic() - began
        running = start_run(
            run, folder, replace=overwrite, spent=spent, expected=plan.expected, processes=processes
        )
        show_start(running)
    if not processes.leads:
        watching = Watching(with_samples=False, track=None)
    with explaining_shortage(running), observing(running, watching) as observers:
        completed = follow(running, observers)
    if completed is None:
        return
    if json:
        console.result_json(completed.result.to_json())
        return
    show_result(folder, completed.result)


def _show_recorded(folder: Path, result: Mapping[str, Any], json: bool) -> None:
    """Show the recorded result of a finished run."""
    from explora.core.runs.result import TrainResult
    from explora.core.runs.train import tidy_finished

    tidy_finished(folder)
    console.note(f"the run in {folder} has finished; this is its recorded result")
    if json:
        console.result_json(dict(result))
        return
    show_result(folder, TrainResult.from_json(result))
