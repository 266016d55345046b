"""What the rows of the study say: scores of a contender over seeds, differences, regret of the defaults."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

from benchmarks.study.plan import Plan, Stage
from benchmarks.study.rows import Row, best_power, unpack
from explora.core.tasks.metrics import Score
from explora.core.tasks.paired import Estimate, PairedScores, compare

FULL = "full"
POINT = 0.5  # of accuracy, in percentage points: the largest regret of a default
SHARE = 0.02  # of perplexity: the same


@dataclass(frozen=True, kw_only=True)
class Result:
    """A contender at one learning rate on one data set, over the seeds that were trained."""

    contender: str
    power: float
    rows: Sequence[Row]

    @property
    def learning_rate(self) -> float:
        """The learning rate of all these rows."""
        rate: float = self.rows[0]["settings"]["learning_rate"]
        return rate

    @property
    def score(self) -> float:
        """The mean score on the reporting rows; infinite perplexity or 0 accuracy where a run diverged."""
        return fmean(row["score"] if row["score"] is not None else self._worst for row in self.rows)

    @property
    def _worst(self) -> float:
        return 0.0 if self.rows[0]["higher_is_better"] else math.inf

    @property
    def deviation(self) -> float | None:
        """The standard deviation of the score between seeds."""
        return stdev(row["score"] for row in self.rows) if len(self.rows) > 1 else None

    @property
    def forgetting(self) -> float | None:
        """The mean increase in nats per token of the general text."""
        found = [row["forgetting"][1] - row["forgetting"][0] for row in self.rows if row.get("forgetting")]
        return fmean(found) if found else None

    def scores(self) -> list[Score]:
        """Return the scores by example, of each seed."""
        return [unpack(row["by_example"]) for row in self.rows]

    def mean(self, fact: str) -> float | None:
        """Return the mean of a number that each row has."""
        found = [row[fact] for row in self.rows if row.get(fact) is not None]
        return fmean(found) if found else None


@dataclass(frozen=True, kw_only=True)
class Regret:
    """How much better the best learning rate is than the default: positive where the default is worse.

    default: trained at the learning rate of the grid that is nearest to the default. value: in percentage
    points of accuracy, or percent of the best perplexity, the median over seeds; error: the paired standard
    error, the median over seeds; limit: the largest value that is accepted.
    """

    contender: str
    best: Result
    default: Result
    value: float
    error: float
    limit: float

    @property
    def is_accepted(self) -> bool:
        """Whether the default stays."""
        return self.value <= self.limit


def group_of(row: Row) -> str:
    """Return what rows that differ in method, learning rate and seed alone share: base, data and length."""
    group: str = row["cell"].rsplit("/", 2)[0]
    return group


def result(rows: Sequence[Row], group: str, contender: str, power: float) -> Result | None:
    """Return a contender's result at one learning rate; None where it was not trained."""
    found = [
        row for row in rows if (row["contender"], row["power"], group_of(row)) == (contender, power, group)
    ]
    found.sort(key=lambda row: row["seed"])
    return Result(contender=contender, power=power, rows=found) if found else None


def best_result(rows: Sequence[Row], stage: str, contender: str) -> Result | None:
    """Return a contender's result at the learning rate that a stage chose, over all seeds."""
    power = best_power(rows, stage, contender)
    if power is None:
        return None
    group = next(group_of(row) for row in rows if row["stage"] == stage)
    return result(rows, group, contender, power)


def result_of_stage(rows: Sequence[Row], stage: Stage, contender: str) -> Result | None:
    """Return a contender's result in a stage, at the learning rate that was chosen there or in `best_of`."""
    if stage.best_of is None:
        return best_result(rows, stage.name, contender)
    power = best_power(rows, stage.best_of, stage.rate_of or contender)
    group = next((group_of(row) for row in rows if row["stage"] == stage.name), None)
    return None if power is None or group is None else result(rows, group, contender, power)


def usual_full(plan: Plan, stage: Stage, rows: Sequence[Row]) -> Result | None:
    """Return full fine-tuning at its chosen learning rate on the same rows, with the usual epochs."""
    for other in map(plan.stage, [each.name for each in plan.stages]):
        is_usual = other.epochs is None and other.patience is None and FULL in other.contenders
        if is_usual and _setting(other) == _setting(stage):
            return result_of_stage(rows, other, FULL)
    return None


def _setting(stage: Stage) -> tuple[object, ...]:
    return stage.base, stage.data, stage.rows, stage.batch_size


def difference(first: Result, second: Result) -> Estimate:
    """Return the score of `first` minus that of `second`, on the same rows, over the seeds of both."""
    return compare(first.scores(), second.scores())


def regret(rows: Sequence[Row], stage: str, contender: str, power: float) -> Regret | None:
    """Return the regret of the trained learning rate that is nearest to `power`; None if rows are missing."""
    best = best_result(rows, stage, contender)
    if best is None:
        return None
    first = best.rows[0]
    group = group_of(first)
    tried = {row["power"] for row in rows if (row["contender"], group_of(row)) == (contender, group)}
    default = result(rows, group, contender, min(tried, key=lambda each: abs(each - power)))
    if default is None or any(row["score"] is None for row in default.rows):
        return None
    pairs = [(one, other) for one in best.rows for other in default.rows if one["seed"] == other["seed"]]
    if not pairs:
        return None
    values, errors = zip(*(_lost(one, other) for one, other in pairs), strict=True)
    limit = max(POINT if first["higher_is_better"] else 100 * SHARE, median(errors))
    return Regret(
        contender=contender,
        best=best,
        default=default,
        value=median(values),
        error=median(errors),
        limit=limit,
    )


def _lost(best: Row, default: Row) -> tuple[float, float]:
    """Return what the default loses with one seed, and the paired standard error."""
    paired = PairedScores([unpack(best["by_example"]), unpack(default["by_example"])])
    covariance = paired.covariance
    error = math.sqrt(max(0.0, covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]))
    lost = best["score"] - default["score"]
    if best["higher_is_better"]:
        return 100 * lost, 100 * error
    return -100 * lost / best["score"], 100 * error / best["score"]
