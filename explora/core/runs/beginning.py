"""Start of a run: from its base, from the trained weights of another run, or after its own earlier phases."""

from __future__ import annotations

from pathlib import Path

from explora.core.config.run_config import TrainRun
from explora.core.runs.assemble import Session, restore_trained
from explora.core.runs.identity import UNDO_CHANGES
from explora.core.runs.origin import check_start, load_start, read_start
from explora.core.runs.phases import phases_before
from explora.core.runs.record import Origin, Phase, RunRecord
from explora.core.training.checkpoint import Progress, has_checkpoint
from explora.errors import IdentityError


def load_first_weights(
    session: Session, run: TrainRun, before: RunRecord | None, checkpoint: Path
) -> Origin | None:
    """Load the trained weights that a run starts from, if any. Return their record if they are another run's.

    A run with a resume state loads none. Raises IdentityError if the weights have changed since the run
    began.
    """
    known = before.origin if before is not None else None
    if has_checkpoint(checkpoint):
        return known
    if phases_before(before):
        restore_trained(session, checkpoint.parent)
        return known
    if run.from_run is None:
        return None
    start = read_start(run.task, run.from_run, run.model)
    check_start(start, run)
    if known is not None and known.digest != start.origin.digest:
        raise IdentityError(
            f"the weights in {known.path}, from which the run starts, have changed", UNDO_CHANGES
        )
    load_start(session, start)
    return start.origin


def first_progress(run: TrainRun, phases: tuple[Phase, ...], rows: int) -> Progress:
    """Return the progress at which a run on `rows` rows starts.

    Trained weights are scored before the first step.
    """
    if not phases:
        return Progress(evaluated=0 if run.from_run is None else -1)
    result = phases[-1].result
    epoch, batch = divmod(result["steps"], run.training.steps_per_epoch(rows))
    return Progress(
        step=result["steps"],
        epoch=epoch,
        batch=batch,
        tokens=result["tokens"],
        seconds=result["seconds"],
        best_step=result["best_step"],
        evaluated=result["steps"] - 1,
        peak_memory_bytes=result["peak_memory_bytes"],
        processor_seconds=result.get("processor_seconds") or 0.0,
    )
