"""Tables of learning rates: the best of each method, the response to the rate, the regret of the defaults."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.study.markdown import estimate, figure, score, table, title
from benchmarks.study.plan import Plan, Stage
from benchmarks.study.results import Result, best_result, difference, regret
from benchmarks.study.rows import Row

FULL = "full"


def best_rates(stage: Stage, rows: Sequence[Row]) -> str:
    """Return one line for each contender at the learning rate that its dev scores chose."""
    results = [found for name in stage.contenders if (found := best_result(rows, stage.name, name))]
    full = next((found for found in results if found.contender == FULL), None)
    header = (
        "method", "learning rate", "times the default", "seeds", "score", "sd of seeds",
        "minus full, 95 % interval", "forgetting", "trained", "file", "processor seconds",
    )  # fmt: skip
    return table(header, (_best_line(found, full, stage, rows) for found in results))


def _best_line(found: Result, full: Result | None, stage: Stage, rows: Sequence[Row]) -> list[str]:
    first = found.rows[0]
    tried = {
        row["power"] for row in rows if row["stage"] == stage.name and row["contender"] == found.contender
    }
    end = " (end of the grid)" if found.power in (min(tried), max(tried)) and len(tried) > 1 else ""
    against = "" if full is None or full is found else estimate(difference(found, full), first)
    return [
        found.contender,
        f"{found.learning_rate:g}{end}",
        f"{3.0**found.power:.2g}",
        str(len(found.rows)),
        figure(found.score, first),
        "" if found.deviation is None else f"{found.deviation:.3f}",
        against,
        "" if found.forgetting is None else f"{found.forgetting:+.3f}",
        f"{first['trainable']:,} ({100 * first['share']:.3g} %)",
        f"{first['file_bytes'] / 1e6:.2f} MB",
        f"{found.mean('processor_seconds') or 0:.0f}",
    ]


def rates(stage: Stage, rows: Sequence[Row]) -> str:
    """Return the score of the first seed at each learning rate, in multiples of the default."""
    own = [row for row in rows if row["stage"] == stage.name]
    powers = sorted({row["power"] for row in own})
    lines = []
    for name in stage.contenders:
        by_power = {row["power"]: row for row in own if row["contender"] == name}
        if by_power:
            lines.append([name, *(score(by_power[power]) if power in by_power else "" for power in powers)])
    return table(
        ("score, by learning rate over the default", *(f"{3.0**power:.2g}" for power in powers)), lines
    )


def regrets(plan: Plan, rows: Sequence[Row]) -> str:
    """Return how much each default learning rate loses against the best one, on rows that chose nothing."""
    found = [
        (title(stage), lost)
        for stage in plan.sweeping()
        for contender in stage.contenders
        if (lost := regret(rows, stage.name, contender))
    ]
    header = (
        "data", "method", "default", "best", "seeds", "regret", "paired standard error", "limit", "verdict",
    )  # fmt: skip
    return table(
        header,
        (
            [
                name,
                lost.contender,
                f"{lost.default.learning_rate:g}",
                f"{lost.best.learning_rate:g}",
                str(min(len(lost.best.rows), len(lost.default.rows))),
                f"{lost.value:.2f} {_unit(lost.best)}",
                f"{lost.error:.2f}",
                f"{lost.limit:.2f}",
                "stays" if lost.is_accepted else "loses too much",
            ]
            for name, lost in found
        ),
    )


def _unit(found: Result) -> str:
    return "points" if found.rows[0]["higher_is_better"] else "%"
