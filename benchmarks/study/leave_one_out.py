"""Test the advice of `explora bench --advise` on the study: every cell without the rows of its task.

python -m benchmarks.study.leave_one_out

Writes advice.md and advice.json into benchmarks/results/study, from the rows that the package holds.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence

from benchmarks.study.markdown import table
from benchmarks.study.ship import ROWS
from explora.core.advice.leave_one_out import TARGET, LeaveOneOut, Verdict, leave_one_out
from explora.core.advice.outcomes import Outcome, find_outcomes
from explora.core.advice.study import Study, read_study

PAGE = ROWS.with_name("advice.md")
WIDTH = 120


def write_page(study: Study, outcomes: Sequence[Outcome], tested: LeaveOneOut) -> str:
    """Return the page as Markdown."""
    return "\n".join(
        [*_head(study, outcomes), *_rules(tested), *_answers(outcomes, tested), *_limits(tested)]
    )


def _head(study: Study, outcomes: Sequence[Outcome]) -> Iterator[str]:
    cells = {outcome.cell.name for outcome in outcomes}
    tasks = sorted({outcome.cell.task for outcome in outcomes})
    yield "# How good is the advice?\n"
    yield _paragraph(
        "`python -m benchmarks.study.leave_one_out` writes this page. For each cell of the study it computes "
        "the advice of `explora bench --advise` without any row of the same task, and looks up how far the "
        "advised method was from the best of the cell. A point is 0.01 of accuracy or 2 % of perplexity. "
        "[docs/advice.md](../../../docs/advice.md) explains the rules."
    )
    yield table(
        ("rows of the study", "cells", "tasks"),
        [[str(study.source.rows), str(len(cells)), ", ".join(tasks) or "none"]],
    )


def _rules(tested: LeaveOneOut) -> Iterator[str]:
    if tested.advice is None:
        yield "\nThe study has rows of fewer than two tasks, so that nothing can be left out yet."
        return
    rules = [rule for rule in (tested.advice, tested.constant) if rule is not None]
    header = ("rule", "within a point of the best", "share", "median time per token over full fine-tuning")
    yield "\n" + table(header, map(_rule, rules))
    reached = "reaches" if tested.reaches_target else "misses"
    better = "is better than" if tested.beats_constant else "is no better than"
    yield "\n" + _paragraph(
        f"The advice {reached} its target of {100 * TARGET:.0f} % of the cells. It {better} the best "
        "constant answer. To be better, it must be near the best in as many cells, at a lower median time."
    )


def _paragraph(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False) + "\n"


def _rule(verdict: Verdict) -> list[str]:
    pace = "" if verdict.pace is None else f"{verdict.pace:.2f}"
    return [verdict.rule, f"{verdict.near} of {verdict.cells}", f"{100 * verdict.share:.0f} %", pace]


def _answers(outcomes: Sequence[Outcome], tested: LeaveOneOut) -> Iterator[str]:
    if not tested.answers:
        return
    best = {outcome.cell.name: outcome.best for outcome in outcomes}
    yield "\n" + table(
        ("cell", "advised", "points below the best", "best"),
        [[each.cell, each.contender, f"{each.shortfall:.1f}", best[each.cell]] for each in tested.answers],
    )


def _limits(tested: LeaveOneOut) -> Iterator[str]:
    tasks = f"{tested.tasks} task{'' if tested.tasks == 1 else 's'}"
    yield (
        "\n## What this does not show\n\n"
        f"- The study has {tasks}, and the cells of one task are not independent. This is weak evidence.\n"
        "- The best constant answer is chosen by looking at the same cells, which favours it.\n"
        "- The best method of a cell has the best of several noisy scores. Every rule looks a little worse.\n"
        "- Scores after equal time are missing: the rows hold the score of a whole training alone.\n"
        "- Every cell was trained on bases of one size.\n"
    )


if __name__ == "__main__":
    shipped = read_study()
    found = find_outcomes(shipped)
    result = leave_one_out(shipped, found)
    PAGE.write_text(write_page(shipped, found, result), encoding="utf-8")
    figures = json.dumps(result.to_json(), indent=1) + "\n"
    PAGE.with_suffix(".json").write_text(figures, encoding="utf-8")
    print(f"{PAGE} and {PAGE.with_suffix('.json').name}")
