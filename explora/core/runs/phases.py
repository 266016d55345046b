"""Continue a finished run with more epochs or steps: a second phase.

It starts from the best weights so far, with a new optimizer and a new schedule. These weights stay the best
until a dev score is better. Steps and epochs are counted from the start of the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from explora.core.config.concerns import TrainingConfig
from explora.core.config.run_config import TrainRun
from explora.core.runs.record import Phase, RunRecord

LENGTH = ("epochs", "max_steps")


def longer(record: RunRecord, options: Mapping[str, Any]) -> TrainRun | None:
    """Return a finished run with the length that the options set; None if that is not longer."""
    asked = {name: options[name] for name in LENGTH if name in options}
    if not asked:
        return None
    before, rows = record.run.training, int(record.result["examples"])
    after = replace(before, **{"max_steps": None, "max_minutes": None, **asked})
    return replace(record.run, training=after) if after.steps(rows) > before.steps(rows) else None


def dropped_limit(before: TrainingConfig, after: TrainingConfig) -> str | None:
    """Return, in words, the limit of a finished phase that the next one does not have; None without one."""
    if before.max_minutes is not None:
        return f"{before.max_minutes:g} minutes"
    if before.max_steps is not None and after.max_steps is None:
        return f"{before.max_steps:,} steps"
    return None


def phases_before(record: RunRecord | None) -> tuple[Phase, ...]:
    """Return the finished phases of a run that continues, oldest first."""
    if record is None:
        return ()
    if not record.finished:
        return record.earlier_phases
    return (*record.earlier_phases, Phase(training=record.run.training, result=record.result))
