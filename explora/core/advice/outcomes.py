"""What each contender achieves in each cell of the study, at the learning rate that its dev scores choose."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from explora.core.advice.study import Cell, Study, Trial, points
from explora.core.config.registry import FULL_METHOD


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A contender in a cell: mean score over `seeds` random seeds, on rows that were not used for any choice.

    `shortfall` is the distance from the best contender of the cell in points, `error` its standard error.
    `pace` is processor time per token over that of full fine-tuning in the same cell, None without it.
    """

    cell: Cell
    contender: str
    learning_rate: float
    score: float
    best: str
    best_score: float
    shortfall: float
    error: float
    seeds: int
    pace: float | None


def find_outcomes(study: Study) -> list[Outcome]:
    """Return the outcome of every contender of every cell that has a score."""
    by_cell: dict[str, dict[str, list[Trial]]] = defaultdict(lambda: defaultdict(list))
    for trial in study.trials:
        if trial.dev is not None and trial.score is not None:
            by_cell[trial.cell][trial.contender].append(trial)
    return [
        outcome
        for name, contenders in by_cell.items()
        for outcome in _outcomes(study.cells[name], contenders)
    ]


def _outcomes(cell: Cell, contenders: dict[str, list[Trial]]) -> list[Outcome]:
    chosen = {name: _at_best_rate(trials, cell) for name, trials in contenders.items()}
    scores = {name: _score(trials) for name, trials in chosen.items()}
    sign = 1 if cell.higher_is_better else -1
    best = max(scores, key=lambda name: sign * scores[name])
    paces = {name: _seconds_per_token(trials) for name, trials in chosen.items()}
    full = paces.get(FULL_METHOD)
    return [
        Outcome(
            cell=cell,
            contender=name,
            learning_rate=trials[0].learning_rate,
            score=scores[name],
            best=best,
            best_score=scores[best],
            shortfall=points(
                sign * (scores[best] - scores[name]),
                best=scores[best],
                higher_is_better=cell.higher_is_better,
            ),
            error=fmean(trial.error or 0.0 for trial in trials),
            seeds=len(trials),
            pace=_ratio(paces[name], full),
        )
        for name, trials in chosen.items()
    ]


def _at_best_rate(trials: Sequence[Trial], cell: Cell) -> list[Trial]:
    """Return the trials at the learning rate with the best dev score.

    Only the first seed was trained at every rate, so that only its scores can be compared.
    """
    sign = 1 if cell.higher_is_better else -1
    first = min(trial.seed for trial in trials)
    swept = [trial for trial in trials if trial.seed == first]
    best = max(swept, key=lambda trial: sign * (trial.dev or 0.0))
    return [trial for trial in trials if trial.learning_rate == best.learning_rate]


def _seconds_per_token(trials: Sequence[Trial]) -> float | None:
    """Return processor time per token; None if all trials ran on a GPU."""
    known = [
        trial.processor_seconds / trial.tokens
        for trial in trials
        if trial.processor_seconds is not None and trial.tokens
    ]
    return fmean(known) if known else None


def _ratio(seconds: float | None, of_full: float | None) -> float | None:
    return None if seconds is None or not of_full else seconds / of_full


def _score(trials: Sequence[Trial]) -> float:
    return fmean(trial.score for trial in trials if trial.score is not None)
