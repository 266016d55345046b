"""Every table of the study as Markdown, from its rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.study.plan import Plan, Stage
from benchmarks.study.results import Result, best_result, difference, regret, result
from benchmarks.study.rows import Row
from explora.core.tasks.paired import Estimate

FULL = "full"
RATES = ("quora-rates", "sst-rates", "sonnets-rates", "cfimdb-rates", "control-rates")
LORA = ("lora-r16-six", "lora-r8-kv")


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; empty without lines."""
    rows = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join(["| " + " | ".join(header) + " |", "|" + "---|" * len(header), *rows]) if rows else ""


def all_tables(
    plan: Plan, rows: Sequence[Row], floors: Sequence[Row], costs: Sequence[Row], figures: Sequence[Path]
) -> str:
    """Return the page of all tables that the rows so far allow, with the figures that were drawn."""
    parts = ["# The study: its tables and figures", _circumstances(plan, rows)]
    parts += [f"![{file.stem}]({file.name})" for file in figures]
    for name in RATES:
        stage = plan.stage(name)
        if any(row["stage"] == name for row in rows):
            parts += [
                f"## {_title(stage)}",
                _floors(stage, rows, floors),
                best_rates(stage, rows),
                rates(stage, rows),
            ]
    parts += ["## Regret of the default learning rates", regrets(plan, rows)]
    parts += ["## Does full fine-tuning fall below zero-shot?", below_zero_shot(plan, rows, floors)]
    parts += ["## LoRA minus full fine-tuning, by number of training rows", by_data_size(plan, rows)]
    parts += ["## Speed and peak memory", cost_table(costs)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _title(stage: Stage) -> str:
    size = "all rows" if stage.rows in (None, "all") else f"{stage.rows:,} rows"
    base = "" if stage.base == "embedded" else f", the {stage.base} base"
    return f"{stage.data}, {size}{base}"


def _circumstances(plan: Plan, rows: Sequence[Row]) -> str:
    """Return which rows there are, and where and when they were made."""
    hours = sum(row.get("processor_seconds") or 0 for row in rows) / 3600
    machines = sorted({f"{row['machine']['processor']}, {row['amp']}" for row in rows})
    days = sorted({row["date"][:10] for row in rows})
    commits = sorted({row["commit"] for row in rows})
    done = {row["cell"] for row in rows}
    left = [
        f"{each.name} ({len(cells)} cells)"
        for each in plan.stages
        if (cells := [cell for cell in plan.cells(plan.stage(each.name), rows) if cell.name not in done])
    ]
    digests = sorted({f"{row['base']} `{row['base_digest'][:12]}`" for row in rows})
    return "\n".join(
        [
            f"{len(rows)} trained cells, {hours:.1f} processor hours of training; one thread each.",
            "",
            f"- Processor and precision: {'; '.join(machines)}",
            f"- Days: {', '.join(days)}; commits: {', '.join(commits)}",
            f"- Bases: {', '.join(digests)}",
            f"- Cells that are known and not trained yet: {', '.join(left) or 'none'}",
        ]
    )


def _floors(stage: Stage, rows: Sequence[Row], floors: Sequence[Row]) -> str:
    """Return what a score must beat, on the same reporting rows."""
    size = stage.rows or "all"
    found = [
        f"TF-IDF with logistic regression {_score(floor)}"
        if floor["floor"] == "tfidf"
        else f"the base without training {_score(floor)}"
        for floor in floors
        if floor["data"] == stage.data
        and floor["rows"] in (None, size)
        and floor["base"] in (None, stage.base)
    ]
    own = next((row for row in rows if row["stage"] == stage.name and row.get("trivial") is not None), None)
    if own is not None:
        found.insert(0, f"{own['trivial_answer']} {_figure(own['trivial'], own)}")
    return f"To beat: {', '.join(found)}." if found else ""


def _figure(value: float, row: Row) -> str:
    return f"{value:.3f}" if row["metric"] == "accuracy" else f"{value:.1f}"


def _score(row: Row) -> str:
    return _figure(row["score"], row)


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
    against = "" if full is None or full is found else _estimate(difference(found, full), first)
    return [
        found.contender,
        f"{found.learning_rate:g}{end}",
        f"{3.0**found.power:.2g}",
        str(len(found.rows)),
        _figure(found.score, first),
        "" if found.deviation is None else f"{found.deviation:.3f}",
        against,
        "" if found.forgetting is None else f"{found.forgetting:+.3f}",
        f"{first['trainable']:,} ({100 * first['share']:.2g} %)",
        f"{first['file_bytes'] / 1e6:.2f} MB",
        f"{found.mean('processor_seconds') or 0:.0f}",
    ]


def _estimate(found: Estimate, row: Row) -> str:
    digits = 3 if row["metric"] == "accuracy" else 1
    return f"{found.value:+.{digits}f} [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"


def rates(stage: Stage, rows: Sequence[Row]) -> str:
    """Return the score of the first seed at each learning rate, in multiples of the default."""
    own = [row for row in rows if row["stage"] == stage.name]
    powers = sorted({row["power"] for row in own})
    lines = []
    for name in stage.contenders:
        by_power = {row["power"]: row for row in own if row["contender"] == name}
        if by_power:
            lines.append([name, *(_cell(by_power.get(power)) for power in powers)])
    return table(
        ("score, by learning rate over the default", *(f"{3.0**power:.2g}" for power in powers)), lines
    )


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    return "diverged" if row["score"] is None else _score(row)


def regrets(plan: Plan, rows: Sequence[Row]) -> str:
    """Return how much each default learning rate loses against the best one, on rows that chose nothing."""
    found = [
        (name, lost)
        for name in RATES
        for contender in plan.stage(name).contenders
        if (lost := regret(rows, name, contender))
    ]
    header = (
        "data",
        "method",
        "default",
        "best",
        "seeds",
        "regret",
        "paired standard error",
        "limit",
        "default",
    )
    return table(
        header,
        (
            [
                name.removesuffix("-rates"),
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


def below_zero_shot(plan: Plan, rows: Sequence[Row], floors: Sequence[Row]) -> str:
    """Return full fine-tuning at its chosen and at its worst learning rate beside the untrained base."""
    lines = []
    for name in RATES:
        stage = plan.stage(name)
        best = best_result(rows, name, FULL)
        zero = next(
            (each for each in floors
             if each["floor"] == "untrained" and each["data"] == stage.data and each["base"] == stage.base),
            None,
        )  # fmt: skip
        if best is None or zero is None:
            continue
        own = [row for row in rows if row["stage"] == name and row["contender"] == FULL]
        finished = [row for row in own if row["score"] is not None]
        sign = 1 if finished[0]["higher_is_better"] else -1
        worst = min(finished, key=lambda row: sign * row["score"])
        below = [row for row in finished if sign * row["score"] < sign * zero["score"]]
        rates = ", ".join(f"{row['settings']['learning_rate']:g}" for row in below) or "none"
        lines.append(
            [_title(stage), _score(zero), _figure(best.score, best.rows[0]), _score(worst),
             f"{worst['settings']['learning_rate']:g}", rates]
        )  # fmt: skip
    header = (
        "data", "untrained", "full at its chosen learning rate", "full at its worst", "that learning rate",
        "learning rates below the untrained base",
    )  # fmt: skip
    return table(header, lines)


def by_data_size(plan: Plan, rows: Sequence[Row]) -> str:
    """Return the difference between LoRA and full fine-tuning by the number of training rows of Quora."""
    lines = []
    for name in ("quora-250", "quora-1000", "quora-rates", "quora-16000", "quora-all"):
        stage = plan.stage(name)
        chosen = stage.best_of or name
        pairs = {each: at_best(stage, chosen, rows, each) for each in (FULL, *LORA)}
        full = pairs.pop(FULL)
        for contender, found in pairs.items():
            if full is not None and found is not None:
                first = found.rows[0]
                lines.append(
                    [str(stage.rows or "all"), contender, str(len(found.rows)), _figure(full.score, first),
                     _figure(found.score, first), _estimate(difference(found, full), first)]
                )  # fmt: skip
    return table(
        ("training rows", "method", "seeds", "full", "method's score", "difference, 95 % interval"), lines
    )


def at_best(stage: Stage, chosen: str, rows: Sequence[Row], contender: str) -> Result | None:
    """Return a contender's result in a stage, at the learning rate that the stage `chosen` found best."""
    best = best_result(rows, chosen, contender)
    if best is None or stage.name == chosen:
        return best
    return result([row for row in rows if row["stage"] == stage.name], contender, best.power)


def cost_table(costs: Sequence[Row]) -> str:
    """Return speed and peak memory of each method over those of full fine-tuning in the same measurement."""
    full: dict[str, Row] = {}
    lines = []
    for row in costs:
        if row.get("error"):
            continue
        if row["method"] == FULL:
            full[row["command"]] = row
            continue
        other = full[row["command"]]
        lines.append(
            [row["task"], row["model"], _contender(row), f"{row['tokens_per_second']:,.0f}",
             f"{row['tokens_per_second'] / other['tokens_per_second']:.2f}",
             f"{row['peak_memory_bytes'] / 1e6:,.0f} MB",
             f"{row['peak_memory_bytes'] / other['peak_memory_bytes']:.2f}"]
        )  # fmt: skip
    return table(("task", "base", "method", "tokens/s", "over full", "peak memory", "over full"), lines)


def _contender(row: Row) -> str:
    """Return a method with its rank and targets, as the contenders of the plan are called."""
    if row["rank"] is None:
        return str(row["method"])
    return f"{row['method']}-r{row['rank']}-{'six' if 'mlp' in row['command'] else 'kv'}"
