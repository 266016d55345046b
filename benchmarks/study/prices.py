"""The price of what is left of the plan, in tokens and processor hours, from the rows so far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from benchmarks.study.plan import ALL, Cell, Plan
from benchmarks.study.rows import Row


def list_cells(plan: Plan, rows: Sequence[Row]) -> Iterator[str]:
    """Yield a line for each stage: cells that are known, cells that are left, and what these cost."""
    known = {row["cell"] for row in rows}
    for each in plan.stages:
        stage = plan.stage(each.name)
        cells = plan.cells(stage, rows)
        left = [cell for cell in cells if cell.name not in known]
        tokens = [_tokens(cell, rows) for cell in left]
        if not cells:
            yield f"{stage.name}: waits for the learning rates of {stage.best_of}"
        elif None in tokens:
            yield f"{stage.name}: {len(left)} of {len(cells)} cells left; their price is not known yet"
        else:
            total = sum(filter(None, tokens))
            hours = sum(_seconds(cell, rows) for cell in left) / 3600
            yield (
                f"{stage.name}: {len(left)} of {len(cells)} cells left, {total / 1e6:.1f} M tokens, "
                f"{hours:.1f} processor hours"
            )


def _tokens(cell: Cell, rows: Sequence[Row]) -> float | None:
    """Estimate the tokens of a cell from those of another one on the same data set; None without any."""
    found = next((row for row in rows if row["data"] == cell.data.name and row.get("tokens")), None)
    if found is None:
        return None
    mean = found["tokens"] / found["examples"] / found["settings"]["epochs"]
    whole = next(
        (row["examples"] for row in rows if (row["data"], row["rows"]) == (cell.data.name, ALL)),
        found["examples"],
    )
    examples = whole if cell.rows == ALL else int(cell.rows)
    epochs: int = cell.settings["epochs"]
    return float(mean * examples * epochs)


def _seconds(cell: Cell, rows: Sequence[Row]) -> float:
    """Estimate the processor seconds of a cell, from the median cost of a token on the same data set."""
    paces = [
        row["processor_seconds"] / row["tokens"]
        for row in rows
        if row["data"] == cell.data.name and row.get("processor_seconds")
    ]
    return (_tokens(cell, rows) or 0) * (median(paces) if paces else 0)
