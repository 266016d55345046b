"""Test the advice of `explora bench --advise` on the study: every cell without the rows of its task.

python -m benchmarks.study.leave_one_out

Writes advice.md and advice.json into benchmarks/results/study, from the rows that the package holds.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence

from benchmarks.study.markdown import table
from benchmarks.study.paces import compare_paces
from benchmarks.study.rows import Row, read_lines
from benchmarks.study.ship import ROWS
from explora.core.advice.leave_one_out import TARGET, LeaveOneOut, Verdict, leave_one_out
from explora.core.advice.outcomes import Outcome, find_outcomes
from explora.core.advice.study import Study, read_study

PAGE = ROWS.with_name("advice.md")
COSTS = ROWS.with_name("costs.jsonl")
WIDTH = 120
# Cells that had been seen when the rule was last changed, on 2026-11-27.
SEEN = (
    "embedded/quora-4000", "embedded/sst-4000", "embedded/sonnets-all", "control/quora-4000",
    "embedded/quora-4000-epochs3", "embedded/quora-1000-epochs8",
)  # fmt: skip


def write_page(study: Study, outcomes: Sequence[Outcome], tested: LeaveOneOut, costs: Sequence[Row]) -> str:
    """Return the page as Markdown. `costs` are the study's rows of speed and memory."""
    parts = [*_head(study, outcomes), *_rules(tested), *_answers(outcomes, tested), *_limits(tested)]
    return "\n\n".join([*parts, *_times(study, outcomes, costs)]) + "\n"


def _head(study: Study, outcomes: Sequence[Outcome]) -> Iterator[str]:
    cells = {outcome.cell.name for outcome in outcomes}
    tasks = sorted({outcome.cell.task for outcome in outcomes})
    yield "# How good is the advice?"
    yield _paragraph(
        "`python -m benchmarks.study.leave_one_out` writes this page. For each cell of the study it computes "
        "the advice of `explora bench --advise` without any row of the same task. The tables show how far "
        "the advised method was from the best of the cell. A point is 0.01 of accuracy or 2 % of perplexity. "
        "[docs/advice.md](../../../docs/advice.md) explains the rules."
    )
    yield table(
        ("rows of the study", "cells", "tasks"),
        [[str(study.source.rows), str(len(cells)), ", ".join(tasks) or "none"]],
    )


def _rules(tested: LeaveOneOut) -> Iterator[str]:
    if tested.advice is None:
        yield "The study has rows of fewer than two tasks, so that nothing can be left out yet."
        return
    rules = [rule for rule in (tested.advice, tested.constant) if rule is not None]
    header = ("rule", "within a point of the best", "share", "median time per token over full fine-tuning")
    yield table(header, map(_rule, rules))
    reached = "reaches" if tested.reaches_target else "misses"
    better = "is better than" if tested.beats_constant else "is no better than"
    yield _paragraph(
        f"The advice {reached} its target of {100 * TARGET:.0f} % of the cells. It {better} the best "
        "constant answer. To be better, it must be near the best in as many cells, at a lower median time."
    )


def _paragraph(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _rule(verdict: Verdict) -> list[str]:
    pace = "" if verdict.pace is None else f"{verdict.pace:.2f}"
    return [verdict.rule, f"{verdict.near} of {verdict.cells}", f"{100 * verdict.share:.0f} %", pace]


def _answers(outcomes: Sequence[Outcome], tested: LeaveOneOut) -> Iterator[str]:
    if not tested.answers:
        return
    best = {outcome.cell.name: outcome.best for outcome in outcomes}
    seen = [each for each in tested.answers if each.cell in SEEN]
    new = [each for each in tested.answers if each.cell not in SEEN]
    for title, answers in (("Seen when the rule was last changed", seen), ("Trained since then", new)):
        near = sum(each.is_near for each in answers)
        yield f"{title}: {near} of {len(answers)} within a point of the best."
        yield table(
            ("cell", "advised", "points below the best", "best"),
            [[each.cell, each.contender, f"{each.shortfall:.1f}", best[each.cell]] for each in answers],
        )


def _limits(tested: LeaveOneOut) -> Iterator[str]:
    tasks = f"{tested.tasks} task{'' if tested.tasks == 1 else 's'}"
    yield "## What this does not show"
    yield (
        f"- The study has {tasks}, and the cells of one task are not independent. This is weak evidence.\n"
        "- The rule for a new task was changed after looking at five of the cells that are listed as seen, "
        "which favours it there. The rule before it was near the best in two of the five.\n"
        "- The best constant answer is chosen by looking at the same cells, which favours it.\n"
        "- The best method of a cell has the best of several noisy scores. Every rule looks a little worse.\n"
        "- Scores after equal time are missing: the rows hold the score of a whole training alone.\n"
        "- Every cell was trained on bases of one size."
    )


def _times(study: Study, outcomes: Sequence[Outcome], costs: Sequence[Row]) -> Iterator[str]:
    if not (found := compare_paces(study, outcomes, costs)):
        return
    yield "## Expected and measured time"
    yield _paragraph(
        "Measured: training steps on two cores of an otherwise idle machine (costs.jsonl). Expected from the "
        "study: processor time of whole trainings on one core each, with evaluations. Expected from "
        "operations: the number of floating-point operations, which leaves out the adapters. The feature "
        "cache of last-linear speeds up whole trainings alone."
    )
    yield found


if __name__ == "__main__":
    shipped = read_study()
    found = find_outcomes(shipped)
    result = leave_one_out(shipped, found)
    PAGE.write_text(write_page(shipped, found, result, read_lines(COSTS)), encoding="utf-8")
    figures = json.dumps(result.to_json(), indent=1) + "\n"
    PAGE.with_suffix(".json").write_text(figures, encoding="utf-8")
    print(f"{PAGE} and {PAGE.with_suffix('.json').name}")
