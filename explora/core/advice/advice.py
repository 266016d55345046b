"""Advice for one task on one machine: candidates, what fits, the choice, and how sure it is.

Memory and time are predicted; `time_rows` trains the leading candidate for a few seconds to learn how fast
this machine is, and the other candidates are scaled from it. Everything else is arithmetic on the study's
rows, without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from explora.core.advice.choosing import Expectation, Question, choose, expect, weight
from explora.core.advice.costs import Cost, cost_of, plan_run
from explora.core.advice.doubts import Doubt, confidence, find_doubts
from explora.core.advice.leave_one_out import LeaveOneOut, leave_one_out
from explora.core.advice.outcomes import Outcome, find_outcomes
from explora.core.advice.study import Source, Study
from explora.core.config.registry import TASKS, Shape, method_class
from explora.core.config.run_config import TrainRun
from explora.errors import TrainingError

TimeRows = Callable[[TrainRun], float]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked. `settings` are the user's, by name; `longest` is the longest row in tokens.

    `ram_bytes` and `minutes` limit the training, None for no limit of time.
    """

    question: Question
    settings: Mapping[str, Any]
    shape: Shape
    longest: int
    classes: int | None
    ram_bytes: int
    minutes: float | None


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A contender of the study as it would be trained here.

    `settings` are those of its method. `seconds` is the predicted time of all optimizer steps, None before
    anything was timed. `exceeds` names the limit that excludes the candidate, None if it is within all.
    """

    contender: str
    settings: Mapping[str, Any]
    run: TrainRun
    expected: Expectation
    cost: Cost
    seconds: float | None = None
    exceeds: Literal["memory", "time"] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            "contender": self.contender,
            "settings": dict(self.settings),
            "learning_rate": self.run.optimizer.learning_rate,
            "shortfall": round(self.expected.shortfall, 3),
            "error": round(self.expected.error, 3),
            "cells": len(self.expected.outcomes),
            "pace": round(self.cost.pace, 3),
            "peak_bytes": self.cost.peak_bytes,
            "seconds": None if self.seconds is None else round(self.seconds, 1),
            "exceeds": self.exceeds,
        }


@dataclass(frozen=True, kw_only=True)
class Advice:
    """The answer. `candidates` are in the order of expected scores, the best first.

    `source` is the file that the rows of the study come from. `share_of_steps` is how much of a whole
    training the time allows, 1 unless it is short. `runner_up` is the best other candidate that fits.
    """

    request: Request
    source: Source
    chosen: Candidate
    runner_up: Candidate | None
    candidates: tuple[Candidate, ...]
    share_of_steps: float
    doubts: tuple[Doubt, ...]
    tested: LeaveOneOut

    @property
    def confidence(self) -> str:
        """Return high, medium or low."""
        return confidence(self.doubts)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data, without the command, which belongs to the command line."""
        request = self.request
        return {
            "task": request.question.task,
            "model": request.question.base,
            "examples": request.question.examples,
            "longest": request.longest,
            "ram_bytes": request.ram_bytes,
            "minutes": request.minutes,
            "chosen": self.chosen.to_json(),
            "runner_up": self.runner_up and self.runner_up.to_json(),
            "candidates": [each.to_json() for each in self.candidates],
            "source": asdict(self.source),
            "share_of_steps": round(self.share_of_steps, 3),
            "evidence": [_evidence(each, request.question) for each in self.chosen.expected.outcomes],
            "confidence": self.confidence,
            "doubts": [asdict(each) for each in self.doubts],
            "leave_one_out": self.tested.to_json(),
        }


def _evidence(outcome: Outcome, question: Question) -> dict[str, Any]:
    cell = outcome.cell
    return {
        "cell": cell.name,
        "task": cell.task,
        "examples": cell.examples,
        "epochs": cell.epochs,
        "metric": cell.metric,
        "score": round(outcome.score, 5),
        "best": outcome.best,
        "best_score": round(outcome.best_score, 5),
        "trivial": cell.trivial,
        "shortfall": round(outcome.shortfall, 3),
        "seeds": outcome.seeds,
        "learning_rate": outcome.learning_rate,
        "weight": round(weight(cell, question), 3),
    }


def advise(request: Request, study: Study, time_rows: TimeRows) -> Advice:
    """Return the advice. Raises TrainingError if the study has no rows or no candidate fits into memory."""
    outcomes = find_outcomes(study)
    candidates = _candidates(request, study, outcomes)
    leader = _choose(_within_memory(request, candidates))
    candidates = _timed(request, candidates, leader, time_rows(leader.run))
    in_time = [each for each in candidates if each.exceeds is None]
    allowed = in_time or [each for each in candidates if each.exceeds == "time"]
    chosen = _choose(allowed)
    others = [each for each in allowed if each is not chosen]
    share = _share_of_steps(request, chosen)
    tested = leave_one_out(study, outcomes)
    return Advice(
        request=request,
        source=study.source,
        chosen=chosen,
        runner_up=min(others, key=lambda each: each.expected.shortfall, default=None),
        candidates=tuple(candidates),
        share_of_steps=share,
        doubts=tuple(find_doubts(request.question, chosen.expected, tested, share)),
        tested=tested,
    )


def _candidates(request: Request, study: Study, outcomes: Sequence[Outcome]) -> list[Candidate]:
    """Return what the task can be trained by, the best first. Raises TrainingError if there is nothing."""
    task = TASKS[request.question.task]
    refused = {
        name for name, each in study.contenders.items() if task.refuses(method_class(str(each["method"])))
    }
    known = [outcome for outcome in outcomes if outcome.contender not in refused]
    found = [_candidate(request, study, each) for each in expect(request.question, known)]
    if not found:
        raise TrainingError(
            f"The study has no rows yet that tell anything about {request.question.task}.",
            f"measure it here: explora bench {request.question.task} --quality",
        )
    return found


def _candidate(request: Request, study: Study, expected: Expectation) -> Candidate:
    studied = study.shape(expected.outcomes[0].cell.base)
    rate = float(f"{expected.learning_rate * studied.n_embd / request.shape.n_embd:.2g}")
    settings = study.contenders[expected.contender]
    run = plan_run(request.question.task, request.settings, settings, rate)
    cost = cost_of(
        run,
        expected,
        shape=request.shape,
        studied=studied,
        length=request.longest,
        classes=request.classes,
    )
    too_large = cost.peak_bytes > request.ram_bytes
    exceeds: Literal["memory"] | None = "memory" if too_large else None
    return Candidate(
        contender=expected.contender,
        settings=settings,
        run=run,
        expected=expected,
        cost=cost,
        exceeds=exceeds,
    )


def _within_memory(request: Request, candidates: Sequence[Candidate]) -> list[Candidate]:
    fitting = [each for each in candidates if each.exceeds is None]
    if fitting:
        return fitting
    least = min(candidates, key=lambda each: each.cost.peak_bytes)
    raise TrainingError(
        f"No method fits into {request.ram_bytes / 1e6:,.0f} MB. {least.contender} needs the least memory: "
        f"about {least.cost.peak_bytes / 1e6:,.0f} MB.",
        f"raise --ram, or see what smaller batches need: explora params {request.question.task} --budget "
        f"{request.ram_bytes / 1e6:.0f}MB",
    )


def _timed(
    request: Request, candidates: Sequence[Candidate], leader: Candidate, rows_per_second: float
) -> list[Candidate]:
    """Return the candidates with their time, scaled from that of the leader, and those excluded by it."""
    seconds_of_leader = leader.run.training.epochs * request.question.examples / rows_per_second
    timed = []
    for each in candidates:
        seconds = seconds_of_leader * each.cost.pace / leader.cost.pace
        is_late = request.minutes is not None and seconds > 60 * request.minutes
        timed.append(replace(each, seconds=seconds, exceeds=each.exceeds or ("time" if is_late else None)))
    return timed


def _choose(candidates: Sequence[Candidate]) -> Candidate:
    costs = {each.contender: each.cost.product for each in candidates}
    found = choose([each.expected for each in candidates], costs)
    return next(each for each in candidates if each.contender == found.contender)


def _share_of_steps(request: Request, chosen: Candidate) -> float:
    if request.minutes is None or not chosen.seconds:
        return 1.0
    return min(1.0, 60 * request.minutes / chosen.seconds)
