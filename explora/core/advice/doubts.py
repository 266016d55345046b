"""Find what makes advice less sure. Each doubt lowers the confidence and names what would remove it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from explora.core.advice.choosing import Expectation, Question
from explora.core.advice.leave_one_out import TARGET, LeaveOneOut

FEW_TASKS = 4  # leaving one of fewer out says little
FAR = 4.0  # times as many or as few rows as the nearest cell
LEVELS = ("high", "medium", "low")


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """A reason to trust advice less, and what would remove it."""

    fact: str
    remedy: str


def confidence(doubts: Sequence[Doubt]) -> str:
    """Return high without a doubt, medium with one, low with more."""
    return LEVELS[min(len(doubts), len(LEVELS) - 1)]


def find_doubts(
    question: Question, chosen: Expectation, tested: LeaveOneOut, share_of_steps: float
) -> Iterator[Doubt]:
    """Yield the doubts about a choice. `share_of_steps` is how much of a whole training the time allows."""
    nearest = chosen.outcomes[0].cell
    measure = f"measure it here: explora bench {question.task} --quality"
    if nearest.task != question.task:
        yield Doubt(
            fact=f"the study has no rows of {question.task}; the nearest task is {nearest.task}",
            remedy=measure,
        )
    if nearest.base != question.base:
        yield Doubt(
            fact=f"the study trained {nearest.base}, not {question.base}",
            remedy=f"{measure} --model {question.base}",
        )
    ratio = question.examples / nearest.examples
    if not 1 / FAR <= ratio <= FAR:
        yield Doubt(
            fact=f"the nearest cell has {nearest.examples:,} rows, this task {question.examples:,}",
            remedy=measure,
        )
    if chosen.outcomes[0].seeds == 1:
        yield Doubt(fact="the nearest cell has one random seed", remedy="more seeds in the study would help")
    if share_of_steps < 1:
        yield Doubt(
            fact=f"about {100 * share_of_steps:.0f} % of a whole training fits into the time, and the study "
            "has no scores of shorter trainings",
            remedy="give it more time, or fewer rows",
        )
    yield from _doubts_of_test(tested)


def _doubts_of_test(tested: LeaveOneOut) -> Iterator[Doubt]:
    if tested.advice is None:
        yield Doubt(
            fact="the study has a single task, so the advice cannot be tested on a task that is left out",
            remedy="a second task in the study would help",
        )
    elif not tested.reaches_target:
        yield Doubt(
            fact=f"without rows of the same task, the advice is near the best in {tested.advice.near} of "
            f"{tested.advice.cells} cells of the study; {100 * TARGET:.0f} % is the target",
            remedy="more tasks in the study would help",
        )
    elif tested.tasks < FEW_TASKS:
        yield Doubt(
            fact=f"the advice was tested on {tested.tasks} tasks only",
            remedy="more tasks in the study would help",
        )
