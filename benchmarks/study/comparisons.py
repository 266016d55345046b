"""Tables that compare methods: with zero-shot, by data, by targets and rank, to convergence, and by cost."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from benchmarks.study.markdown import estimate, figure, score, table, title
from benchmarks.study.plan import Plan, Stage
from benchmarks.study.results import FULL, best_result, difference, result_of_stage, usual_full
from benchmarks.study.rows import Row

ALL_TARGETS = "lora-r16-six"
LORA = (ALL_TARGETS, "lora-r8-kv")
SIZES = ("quora-250", "quora-1000", "quora-rates", "quora-16000", "quora-all", "quora-all-rates")
SST_SIZES = ("sst-250", "sst-1000", "sst-rates")
LENGTHS = (
    "quora-rates", "quora-3-epochs", "quora-others", "sst-rates", "sst-4-epochs", "sst-others",
    "sonnets-rates", "sonnets-others",
)  # fmt: skip
TARGETS = ("kv", "attention", "mlp", "six")
RANKS = (1, 4, 8, 16)


def below_zero_shot(plan: Plan, rows: Sequence[Row], floors: Sequence[Row]) -> str:
    """Return full fine-tuning at its chosen and at its worst learning rate beside the untrained base."""
    lines = []
    for stage in plan.sweeping():
        best = best_result(rows, stage.name, FULL)
        zero = next(
            (each for each in floors
             if each["floor"] == "untrained" and each["data"] == stage.data and each["base"] == stage.base),
            None,
        )  # fmt: skip
        if best is None or zero is None:
            continue
        own = [row for row in rows if row["stage"] == stage.name and row["contender"] == FULL]
        finished = [row for row in own if row["score"] is not None]
        sign = 1 if finished[0]["higher_is_better"] else -1
        worst = min(finished, key=lambda row: sign * row["score"])
        below = [row for row in finished if sign * row["score"] < sign * zero["score"]]
        rates = ", ".join(f"{row['settings']['learning_rate']:g}" for row in below) or "none"
        lines.append(
            [title(stage), score(zero), figure(best.score, best.rows[0]), score(worst),
             f"{worst['settings']['learning_rate']:g}", rates]
        )  # fmt: skip
    header = (
        "data", "untrained", "full at its chosen learning rate", "full at its worst", "that learning rate",
        "learning rates below the untrained base",
    )  # fmt: skip
    return table(header, lines)


def by_data_size(plan: Plan, rows: Sequence[Row]) -> str:
    """Return the difference between LoRA and full fine-tuning by the number of training rows."""
    lines = []
    for stage in map(plan.stage, (*SIZES, *SST_SIZES)):
        pairs = {each: result_of_stage(rows, stage, each) for each in (FULL, *LORA)}
        full = pairs.pop(FULL) or usual_full(plan, stage, rows)
        for contender, found in pairs.items():
            if full is not None and found is not None:
                first = found.rows[0]
                lines.append(
                    [stage.data, str(stage.rows or "all"), contender, f"{found.learning_rate:g}",
                     str(len(found.rows)), figure(full.score, first), figure(found.score, first),
                     estimate(difference(found, full), first)]
                )  # fmt: skip
    header = (
        "data", "training rows", "method", "learning rate", "seeds", "full", "method's score",
        "difference, 95 % interval",
    )  # fmt: skip
    return table(header, lines)


def by_seconds(plan: Plan, rows: Sequence[Row], costs: Sequence[Row]) -> str:
    """Return the scores of trainings of several lengths, in the order of their seconds on an idle machine."""
    lines = []
    for stage in map(plan.stage, LENGTHS):
        full = usual_full(plan, stage, rows)
        for contender in stage.contenders:
            found = result_of_stage(rows, stage, contender)
            pace = _tokens_per_second(stage, contender, costs)
            if full is None or found is None or pace is None:
                continue
            first = found.rows[0]
            seconds = (found.mean("tokens") or 0) / pace
            is_reference = contender == FULL and stage.best_of is None
            cells = [
                title(stage), contender, str(first["settings"]["epochs"]), f"{seconds:,.0f}",
                figure(found.score, first), "" if is_reference else estimate(difference(found, full), first),
            ]  # fmt: skip
            lines.append((stage.data, seconds, cells))
    lines.sort(key=lambda line: line[:2])
    header = ("data", "method", "epochs", "seconds", "score", "minus full as in the sweep, 95 % interval")
    return table(header, [cells for *_, cells in lines])


def _tokens_per_second(stage: Stage, contender: str, costs: Sequence[Row]) -> float | None:
    """Return the speed of a contender that was measured on an idle machine, with both cores."""
    found = [
        row["tokens_per_second"]
        for row in costs
        if f"--data {stage.data} --model {stage.base} " in row["command"] and _contender(row) == contender
    ]
    return median(found) if found else None


def by_targets(plan: Plan, rows: Sequence[Row]) -> str:
    """Return the score of LoRA by its targets and rank, all at one learning rate."""
    lines = []
    for name in ("quora-targets", "sonnets-targets"):
        stage = plan.stage(name)
        for targets in TARGETS:
            found = [result_of_stage(rows, stage, f"lora-r{rank}-{targets}") for rank in RANKS]
            if any(found):
                scores = ["" if each is None else figure(each.score, each.rows[0]) for each in found]
                lines.append([title(stage), targets, *scores])
    return table(("data", "targets", *(f"rank {rank}" for rank in RANKS)), lines)


def to_convergence(plan: Plan, rows: Sequence[Row]) -> str:
    """Return what longer training brings: the best step of at most as many epochs, with patience."""
    stage, lines = plan.stage("quora-convergence"), []
    for name in stage.contenders:
        usual, longer = best_result(rows, "quora-rates", name), result_of_stage(rows, stage, name)
        if usual is not None and longer is not None:
            first = longer.rows[0]
            lines.append(
                [name, figure(usual.score, first), figure(longer.score, first), f"{first['best_step']:,}",
                 f"{first['steps']:,}"]
            )  # fmt: skip
    header = ("method", "two epochs", "to convergence", "best step", "steps")
    return table(header, lines)


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
