"""Tables and figures of the study as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.study.plan import Stage
from benchmarks.study.rows import Row
from explora.core.tasks.paired import Estimate


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; empty without lines."""
    rows = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join(["| " + " | ".join(header) + " |", "|" + "---|" * len(header), *rows]) if rows else ""


def title(stage: Stage) -> str:
    """Return the data, the number of training rows, and the base if it is not the one in the package."""
    size = "all rows" if stage.rows in (None, "all") else f"{stage.rows:,} rows"
    base = "" if stage.base == "embedded" else f", the {stage.base} base"
    batch = "" if stage.batch_size is None else f", batch size {stage.batch_size}"
    note = f", {stage.note}" if stage.note else ""
    return f"{stage.data}, {size}{base}{batch}{note}"


def figure(value: float, row: Row) -> str:
    """Return a score with the digits of its metric."""
    return f"{value:.3f}" if row["metric"] == "accuracy" else f"{value:.1f}"


def score(row: Row) -> str:
    """Return the score of a row, or that the run diverged."""
    return "diverged" if row["score"] is None else figure(row["score"], row)


def estimate(found: Estimate, row: Row) -> str:
    """Return a difference of scores with its 95 % interval."""
    digits = 3 if row["metric"] == "accuracy" else 1
    return f"{found.value:+.{digits}f} [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"
