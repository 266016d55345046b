"""The page of all tables and figures of the study, from its rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.study.comparisons import (
    below_zero_shot,
    by_data_size,
    by_seconds,
    by_targets,
    cost_table,
    to_convergence,
)
from benchmarks.study.learning_rates import best_rates, rates, regrets
from benchmarks.study.markdown import figure, score, title
from benchmarks.study.plan import Plan, Stage
from benchmarks.study.rows import Row


def all_tables(
    plan: Plan, rows: Sequence[Row], floors: Sequence[Row], costs: Sequence[Row], figures: Sequence[Path]
) -> str:
    """Return the page of all tables that the rows so far allow, with the figures that were drawn."""
    parts = ["# The study: its tables and figures", _circumstances(plan, rows)]
    parts += [f"![{file.stem}]({file.name})" for file in figures]
    for stage in plan.sweeping():
        if any(row["stage"] == stage.name for row in rows):
            parts += [
                f"## {title(stage)}",
                _floors(stage, rows, floors),
                best_rates(plan, stage, rows),
                rates(stage, rows),
            ]
    parts += ["## Regret of the default learning rates", regrets(plan, rows)]
    parts += ["## Does full fine-tuning fall below zero-shot?", below_zero_shot(plan, rows, floors)]
    parts += ["## LoRA minus full fine-tuning, by number of training rows", by_data_size(plan, rows)]
    parts += ["## Scores by seconds of training", by_seconds(plan, rows, costs)]
    parts += [
        "## Targets and ranks, at the best learning rate of rank 16 on six targets",
        by_targets(plan, rows),
    ]
    parts += ["## To convergence", to_convergence(plan, rows)]
    parts += ["## Speed and peak memory", cost_table(costs)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _circumstances(plan: Plan, rows: Sequence[Row]) -> str:
    """Return which rows there are, and where and when they were made."""
    hours = sum(row.get("processor_seconds") or 0 for row in rows) / 3600
    on_gpu = sum(row.get("gpu") is not None for row in rows)
    machines = sorted({f"{row.get('gpu') or row['machine']['processor']}, {row['amp']}" for row in rows})
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
            f"{len(rows)} trained cells: {len(rows) - on_gpu} in {hours:.1f} processor hours, one thread "
            f"each, and {on_gpu} on a GPU.",
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
        f"TF-IDF with logistic regression {score(floor)}"
        if floor["floor"] == "tfidf"
        else f"the base without training {score(floor)}"
        for floor in floors
        if floor["data"] == stage.data
        and floor["rows"] in (None, size)
        and floor["base"] in (None, stage.base)
    ]
    own = next((row for row in rows if row["stage"] == stage.name and row.get("trivial") is not None), None)
    if own is not None:
        found.insert(0, f"{own['trivial_answer']} {figure(own['trivial'], own)}")
    return f"To beat: {', '.join(found)}." if found else ""
