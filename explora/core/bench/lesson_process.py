"""The process of a lesson: it measures how well a method learns, by a training that is scored along the way.

The learning rate stays constant after warm-up, as an early score would else be that of a training cut short.
`python -m explora.core.bench.lesson_process` reads a Lesson as JSON on stdin and writes a Learned on stdout.
"""

from __future__ import annotations

import dataclasses
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from explora.core.bench.lessons import Learned, Lesson, Point
from explora.core.bench.protocol import answer
from explora.core.config.run_config import TrainRun
from explora.core.runs.assemble import Session, assemble_for_training
from explora.core.runtime.resolve import resolve_runtime
from explora.core.tasks.contract import Example
from explora.core.training.events import StepDone
from explora.core.training.loop import Training
from explora.errors import DataError

SCORED_ROWS = 1000  # of dev at most, which give an accuracy to within 0.03
MARKS = 4  # evenly spaced scores, the last at the end


def learn(request: Mapping[str, Any]) -> dict[str, Any]:
    """Train and score, and return the Learned as JSON data."""
    lesson = Lesson.from_json(request)
    run = _constant(lesson)
    session, train, dev = assemble_for_training(run)
    judges = _some(dev.examples, run.training.seed)
    with tempfile.TemporaryDirectory(prefix="explora-lesson-") as scratch:
        training = Training(session.model, session.task, run, train.examples, judges, Path(scratch))
        training.plan_features()
        curve, in_time = _curve(training, session, lesson)
    return Learned(
        metric=session.task.metric,
        higher_is_better=session.task.higher_is_better,
        examples=len(judges),
        equal_steps=curve[-1],
        equal_time=in_time or curve[-1],
        curve=tuple(curve),
    ).to_json()


def _curve(training: Training, session: Session, lesson: Lesson) -> tuple[list[Point], Point | None]:
    """Return the scores at the marks, and the score when the lesson's seconds were over.

    The latter is None if the lesson ended earlier.
    """
    marks = {lesson.steps * mark // MARKS for mark in range(1, MARKS + 1)}
    curve: list[Point] = []
    in_time: Point | None = None
    for event in training.events():
        if not isinstance(event, StepDone):
            continue
        late = lesson.seconds is not None and training.progress.seconds >= lesson.seconds
        time_is_up = late and in_time is None
        if time_is_up or event.step in marks:
            curve.append(_score(session, training))
        if time_is_up:
            in_time = curve[-1]
        if event.step == lesson.steps:  # before the loop evaluates and saves, which a lesson does not need
            break
    return curve, in_time


def _constant(lesson: Lesson) -> TrainRun:
    run, steps = lesson.run, lesson.steps
    return dataclasses.replace(
        run,
        optimizer=dataclasses.replace(run.optimizer, schedule="constant"),
        training=dataclasses.replace(run.training, accumulate=1, max_steps=steps, eval_every=steps),
        runtime=resolve_runtime(run.runtime),
    )


def _some(examples: Sequence[Example], seed: int) -> Sequence[Example]:
    """Return SCORED_ROWS examples drawn by the seed, or all if there are fewer."""
    if len(examples) <= SCORED_ROWS:
        return examples
    chosen = sorted(random.Random(seed).sample(range(len(examples)), SCORED_ROWS))
    return [examples[row] for row in chosen]


def _score(session: Session, training: Training) -> Point:
    at, name = training.progress, session.task.metric
    session.model.eval()
    found = session.task.evaluate(session.model, training.dev, (), 2 * training.run.training.batch_size)
    if found.scores is None:
        raise DataError("dev scores need labels", file=training.run.data.data or "samples")
    low, high = found.intervals[name]
    return Point(steps=at.step, seconds=round(at.seconds, 3), score=found.scores[name], low=low, high=high)


if __name__ == "__main__":
    answer(learn)
