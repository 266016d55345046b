"""Results of the study on the embedded base for the cells of the paper's tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.study.plan import Plan, Stage
from benchmarks.study.results import Result, best_result, result_of_stage
from benchmarks.study.rows import Row
from explora.core.config.registry import EMBEDDED


def studied(study: Plan, rows: Sequence[Row], data: str, contender: str, batch_size: int) -> Result | None:
    """Return the result of the study at its chosen learning rate, with most training rows; None without one.

    The data set, the contender and the batch size match. Runs to convergence do not count. Of two learning
    rates that two stages chose, the better one on the choosing rows counts.
    """
    found = [
        result
        for stage in map(study.stage, [stage.name for stage in study.stages])
        if _matches(study, stage, data, contender, batch_size)
        and (result := result_of_stage(rows, stage, contender)) is not None
    ]
    return max(found, key=lambda each: (training_rows(each), _dev(each)), default=None)


def trained(rows: Sequence[Row], stage: Stage, contender: str) -> Result | None:
    """Return the result of a stage of the paper's plan on the base that it names; None before it is run."""
    own = [row for row in rows if Path(row["base"]).name == stage.base]
    return best_result(own, stage.name, contender)


def _matches(study: Plan, stage: Stage, data: str, contender: str, batch_size: int) -> bool:
    return (
        (stage.base, stage.data, stage.patience) == (EMBEDDED, data, None)
        and contender in stage.contenders
        and (stage.batch_size or study.data[data].batch_size) == batch_size
    )


def _dev(result: Result) -> float:
    """Return the first seed's score on the choosing rows; higher is better."""
    first = result.rows[0]
    return float(first["dev"] if first["higher_is_better"] else -first["dev"])


def training_rows(result: Result) -> int:
    """Return the number of rows that a result was trained on; 0 if every run diverged."""
    return max(row.get("examples") or 0 for row in result.rows)
