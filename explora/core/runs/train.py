"""Run a training in its folder: prepare, train, keep the best adapter, score it, record the result."""

from __future__ import annotations

import time
from pathlib import Path

from explora.core.config.run_config import TrainRun
from explora.core.files import settle_folder
from explora.core.machine.facts import Machine, describe_machine
from explora.core.runs.assemble import (
    assemble_for_training,
    own_tokenizer,
)
from explora.core.runs.beginning import first_progress, load_first_weights
from explora.core.runs.folder import discard_pending, prepare_place, real_folder
from explora.core.runs.identity import UNDO_CHANGES, Identity, identify, require_same
from explora.core.runs.paths import with_absolute_paths
from explora.core.runs.phases import phases_before
from explora.core.runs.record import (
    METRICS_FILE,
    MetricsLog,
    RunRecord,
    read_record,
)
from explora.core.runs.running import CHECKPOINT, Running
from explora.core.runtime.processes import Processes
from explora.core.runtime.resolve import set_seed
from explora.core.training.checkpoint import discard_checkpoint
from explora.core.training.loop import Training
from explora.errors import CheckpointError

ACCEPT_CHANGES = "restore it, or choose its current form with --model, --tokenizer or --data"


def start_run(
    run: TrainRun,
    folder: Path,
    *,
    replace: bool = False,
    spent: float = 0.0,
    expected: Identity | None = None,
    processes: Processes | None = None,
    machine: Machine | None = None,
) -> Running:
    """Prepare a run in its folder, or resume it there if the folder has a resume state.

    The caller owns the folder (`ownership.owning`). With `replace`, the run trains beside the old content of
    the folder until it has weights to keep. `spent` is the part of the run's time, in seconds, that is
    already over. `expected` is the identity of the run that is repeated. All `processes` call this, and only
    the leading one writes. `machine` is the description to record, by default that of this process. Raises
    CheckpointError, DataError, IdentityError, UsageError and WeightsError for a state, data, settings or a
    base that cannot be used.
    """
    started = time.monotonic() - spent
    recorded = with_absolute_paths(run)
    processes = processes or Processes()
    place = processes.decide(prepare_place(recorded, folder, replace=replace) if processes.leads else folder)
    tokenizer = processes.decide(own_tokenizer(run, place, fresh=replace) if processes.leads else None)
    session, train, dev = assemble_for_training(run, tokenizer)
    if processes.size > 1:
        set_seed(run.training.seed + processes.rank)  # each process needs its own dropout
    identity = identify(session, train, dev)
    if expected is not None:
        require_same(expected, identity, run, "the run of --config", ACCEPT_CHANGES)
    before = None if replace else read_record(place)
    if before is not None and before.identity is not None:
        require_same(before.identity, identity, run, str(folder), UNDO_CHANGES)
    if replace and processes.leads:
        discard_pending(folder)
    if before is not None and before.finished and processes.leads:
        discard_checkpoint(place / CHECKPOINT)  # left by a killed process; the run continues without it
    processes.wait()
    record = RunRecord(
        run=recorded,
        result={},
        machine=machine or describe_machine(),
        identity=identity,
        origin=load_first_weights(session, run, before, place / CHECKPOINT),
        earlier_phases=phases_before(before),
    )
    training = Training(
        session.model,
        session.task,
        run,
        train.examples,
        dev.examples,
        checkpoint=place / CHECKPOINT,
        start=first_progress(run, record.earlier_phases, len(train.examples)),
        processes=processes,
    )
    training.plan_features()
    training.resume()
    running = Running(
        folder=folder,
        place=place,
        record=record,
        session=session,
        train=train,
        dev=dev,
        training=training,
        log=MetricsLog(place / METRICS_FILE),
        started=started - training.progress.seconds,
        resumed_at=training.progress.step,
    )
    _require_same_step(training, place)
    if processes.leads:
        running.open(tokenizer)
    return running


def _require_same_step(training: Training, place: Path) -> None:
    """Raise CheckpointError if this process has resumed at another step than the leading process."""
    step, own = training.processes.decide(training.progress.step), training.progress.step
    if step != own:
        raise CheckpointError(
            f"process {training.processes.rank} is at step {own} and process 0 at step {step}: "
            f"{place} differs between their machines",
            "put the run folder on a file system that all machines share",
        )


def tidy_finished(folder: Path) -> None:
    """Remove the resume state that a killed process may have left in the folder of a finished run."""
    settle_folder(real_folder(folder))
    discard_pending(folder)
    discard_checkpoint(folder / CHECKPOINT)
