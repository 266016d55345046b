"""Tables of learning rates: the best of each method, the response to the rate, the regret of the defaults."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.study.markdown import estimate, figure, score, table, title
from benchmarks.study.plan import Plan, Stage
from benchmarks.study.results import FULL, Regret, Result, best_result, difference, regret, usual_full
from benchmarks.study.rows import Row


def best_rates(plan: Plan, stage: Stage, rows: Sequence[Row]) -> str:
    """Return one line for each contender at the learning rate that its dev scores chose."""
    results = [found for name in stage.contenders if (found := best_result(rows, stage.name, name))]
    full = usual_full(plan, stage, rows)
    header = (
        "method", "learning rate", "over the middle", "seeds", "score", "sd of seeds",
        "minus full, 95 % interval", "forgetting", "trained", "file", "processor seconds",
    )  # fmt: skip
    return table(header, (_best_line(found, full, stage, rows) for found in results))


def _best_line(found: Result, full: Result | None, stage: Stage, rows: Sequence[Row]) -> list[str]:
    first = found.rows[0]
    tried = {
        row["power"] for row in rows if row["stage"] == stage.name and row["contender"] == found.contender
    }
    end = " (end of the grid)" if found.power in (min(tried), max(tried)) and len(tried) > 1 else ""
    against = "" if full is None or found.contender == FULL else estimate(difference(found, full), first)
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
        _seconds(found),
    ]


def _seconds(found: Result) -> str:
    seconds = found.mean("processor_seconds")
    return "on a GPU" if seconds is None else f"{seconds:.0f}"


def rates(stage: Stage, rows: Sequence[Row]) -> str:
    """Return the score of the first seed at each learning rate, in multiples of the middle of the grid."""
    own = [row for row in rows if row["stage"] == stage.name]
    powers = sorted({row["power"] for row in own})
    lines = []
    for name in stage.contenders:
        by_power = {row["power"]: row for row in own if row["contender"] == name}
        if by_power:
            lines.append([name, *(score(by_power[power]) if power in by_power else "" for power in powers)])
    multiples = [f"{3.0**power:.2g}" for power in powers]
    return table(("score, by learning rate over the middle of the grid", *multiples), lines)


def regrets(plan: Plan, rows: Sequence[Row]) -> str:
    """Return how much the defaults lose against the best learning rate, on rows that chose nothing.

    The defaults before the study are in the middle of the grid.
    """
    header = (
        "data", "method", "seeds", "best", "default before", "regret", "limit", "verdict",
        "default now", "regret", "limit",
    )  # fmt: skip
    lines = []
    for stage in plan.sweeping():
        for contender in stage.contenders:
            before = regret(rows, stage.name, contender, 0)
            now = regret(rows, stage.name, contender, plan.default_power(stage, contender))
            if before and now:
                lines.append([title(stage), contender, *_regret_cells(before, now)])
    return table(header, lines)


def _regret_cells(before: Regret, now: Regret) -> list[str]:
    is_same = before.default.power == now.default.power
    return [
        str(min(len(before.best.rows), len(before.default.rows))),
        f"{before.best.learning_rate:g}",
        f"{before.default.learning_rate:g}",
        *_lost(before),
        "stays" if before.is_accepted else "loses too much",
        *(("same", "", "") if is_same else (f"{now.default.learning_rate:g}", *_lost(now))),
    ]


def _lost(found: Regret) -> tuple[str, str]:
    return f"{found.value:.2f} {_unit(found.best)}", f"{found.limit:.2f}"


def _unit(found: Result) -> str:
    return "points" if found.rows[0]["higher_is_better"] else "%"
