"""Test the advice: for each cell of the study it is computed again without any row of the same task."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from explora.core.advice.choosing import TIE, Expectation, Question, choose, expect
from explora.core.advice.costs import cost_of, plan_run
from explora.core.advice.outcomes import Outcome
from explora.core.advice.study import Cell, Study
from explora.core.config.registry import FULL_METHOD

TARGET = 0.85  # of the cells


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the advice would have been for a cell, and what the cell then showed.

    `shortfall` is in points, `pace` is processor time per token over that of full fine-tuning, as measured
    in the cell; None where full fine-tuning was not trained there.
    """

    cell: str
    contender: str
    shortfall: float
    pace: float | None

    @property
    def is_near(self) -> bool:
        """Whether the answer was within a point of the best of its cell."""
        return self.shortfall <= TIE


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How good a rule was over all cells: the share of near answers, and the median pace."""

    rule: str
    near: int
    cells: int
    pace: float | None

    @property
    def share(self) -> float:
        """The share of the cells where the answer was within a point of the best."""
        return self.near / self.cells


@dataclass(frozen=True, kw_only=True)
class LeaveOneOut:
    """`advice` beside the best constant answer, and the answers one by one.

    Both verdicts are None where the study has a single task, so that nothing can be left out.
    """

    tasks: int
    advice: Verdict | None
    constant: Verdict | None
    answers: tuple[Answer, ...]

    @property
    def reaches_target(self) -> bool:
        """Whether the advice was near the best in enough cells."""
        return self.advice is not None and self.advice.share >= TARGET

    @property
    def beats_constant(self) -> bool:
        """Whether the advice has at least the share of the best constant answer, at a lower median pace."""
        if self.advice is None or self.constant is None:
            return False
        if self.advice.pace is None or self.constant.pace is None:
            return False
        return self.advice.share >= self.constant.share and self.advice.pace < self.constant.pace

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            "tasks": self.tasks,
            "target": TARGET,
            "advice": _plain(self.advice),
            "constant": _plain(self.constant),
            "reaches_target": self.reaches_target,
            "beats_constant": self.beats_constant,
            "answers": [asdict(each) | {"is_near": each.is_near} for each in self.answers],
        }


def _plain(verdict: Verdict | None) -> dict[str, Any] | None:
    return None if verdict is None else asdict(verdict) | {"share": verdict.share}


def leave_one_out(study: Study, outcomes: Sequence[Outcome]) -> LeaveOneOut:
    """Return the advice for each cell from the rows of the other tasks, and how good it would have been.

    A cell without full fine-tuning, or with nothing else, compares too little.
    """
    by_cell: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_cell[outcome.cell.name].append(outcome)
    answers = tuple(_answers(study, outcomes, by_cell))
    answered = {name: by_cell[name] for name in (answer.cell for answer in answers)}
    return LeaveOneOut(
        tasks=len({outcome.cell.task for outcome in outcomes}),
        advice=_verdict("advice", answers),
        constant=_best_constant(answered),
        answers=answers,
    )


def _answers(
    study: Study, outcomes: Sequence[Outcome], by_cell: Mapping[str, Sequence[Outcome]]
) -> Iterator[Answer]:
    for name, found in by_cell.items():
        cell, trained = study.cells[name], {outcome.contender: outcome for outcome in found}
        known = [each for each in outcomes if each.cell.task != cell.task and each.contender in trained]
        question = Question(task=cell.task, examples=cell.examples, base=cell.base)
        expected = expect(question, known)
        if len(trained) < 2 or FULL_METHOD not in trained or not expected:
            continue
        costs = {each.contender: _cost(study, cell, each) for each in expected}
        advised = trained[choose(expected, costs).contender]
        yield _answer(advised)


def _answer(outcome: Outcome) -> Answer:
    return Answer(
        cell=outcome.cell.name,
        contender=outcome.contender,
        shortfall=outcome.shortfall,
        pace=outcome.pace,
    )


def _cost(study: Study, cell: Cell, expected: Expectation) -> float:
    """Return time times memory, as the command does, on rows of the mean length."""
    settings = {"batch_size": cell.batch_size, "amp": cell.amp}
    run = plan_run(cell.task, settings, study.contenders[expected.contender], expected.learning_rate)
    shape = study.shape(cell.base)
    return cost_of(run, expected, shape=shape, studied=shape, length=round(cell.length), classes=None).product


def _best_constant(by_cell: Mapping[str, Sequence[Outcome]]) -> Verdict | None:
    """Return the contender that is near the best in most cells, of those that every cell trained."""
    names = [{outcome.contender for outcome in found} for found in by_cell.values()]
    everywhere = set.intersection(*names) if names else set()
    verdicts = [
        _verdict(
            f"always {name}",
            [_answer(each) for found in by_cell.values() for each in found if each.contender == name],
        )
        for name in sorted(everywhere)
    ]
    known = [verdict for verdict in verdicts if verdict is not None]
    return max(known, key=lambda each: (each.share, -(each.pace or 0.0)), default=None)


def _verdict(rule: str, answers: Sequence[Answer]) -> Verdict | None:
    if not answers:
        return None
    paces = [answer.pace for answer in answers if answer.pace is not None]
    return Verdict(
        rule=rule,
        near=sum(answer.is_near for answer in answers),
        cells=len(answers),
        pace=median(paces) if paces else None,
    )
