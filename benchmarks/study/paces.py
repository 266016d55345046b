"""Compare the time per token that the advice expects with the one that was measured on a quiet machine."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.study.markdown import table
from benchmarks.study.rows import Row
from explora.core.advice.choosing import Question, expect
from explora.core.advice.costs import cost_of, plan_run
from explora.core.advice.outcomes import Outcome
from explora.core.advice.study import Study
from explora.core.base.find import shape_of
from explora.core.config.registry import EMBEDDED, FULL_METHOD

ROWS = 4000  # of the question: the pace hardly depends on it
LENGTH = 64  # tokens of a row: only the last block's share depends on it


def compare_paces(study: Study, outcomes: Sequence[Outcome], costs: Sequence[Row]) -> str:
    """Return a table of the contenders that have rows in the study and in `costs`; empty without any."""
    header = ("task", "base", "method", "time per token over full, measured", "expected", "from")
    return table(header, _lines(study, outcomes, costs))


def _lines(study: Study, outcomes: Sequence[Outcome], costs: Sequence[Row]) -> Iterator[list[str]]:
    full = {row["command"]: row["tokens_per_second"] for row in costs if row["method"] == FULL_METHOD}
    for row in costs:
        settings = _settings(row)
        name = next((name for name, each in study.contenders.items() if each == settings), None)
        if row["method"] == FULL_METHOD or row["error"] or name is None:
            continue
        question = Question(task=row["task"], examples=ROWS, base=EMBEDDED)
        expected = next((each for each in expect(question, outcomes) if each.contender == name), None)
        if expected is None:
            continue
        base = _option(row, "model")
        shape, studied = shape_of(base), study.shape(EMBEDDED)
        run = plan_run(row["task"], {"model": base, "amp": row["amp"]}, settings, expected.learning_rate)
        found = cost_of(run, expected, shape=shape, studied=studied, length=LENGTH, classes=None)
        measured = full[row["command"]] / row["tokens_per_second"]
        source = "the study" if shape == studied else "operations"
        yield [row["task"], base, name, f"{measured:.2f}", f"{found.pace:.2f}", source]


def _settings(row: Row) -> dict[str, Any]:
    """Return the settings of a measured contender as the plan of the study has them."""
    if row["rank"] is None:
        return {"method": row["method"]}
    return {"method": row["method"], "rank": row["rank"], "targets": _option(row, "targets")}


def _option(row: Row, name: str) -> str:
    words = shlex.split(row["command"])
    return words[words.index(f"--{name}") + 1]
