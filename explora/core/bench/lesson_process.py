"""The process of a lesson: it measures how well a method learns, in a training that is scored several times.

The learning rate stays constant after warm-up; with decay, an early score would belong to an incomplete
training. `python -m explora.core.bench.lesson_process` reads a Lesson as JSON from stdin and writes a Learned
to stdout.
"""

from __future__ import annotations

import dataclasses
import random
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from explora.core.bench.lessons import Learned, Lesson, Point, marks
from explora.core.bench.protocol import answer
from explora.core.config.run_config import TrainRun
from explora.core.runs.assemble import Session, assemble_for_training
from explora.core.runtime.resolve import resolve_runtime
from explora.core.tasks.contract import Evaluation, Example
from explora.core.tasks.trivial import Trivial
from explora.core.training.events import StepDone
from explora.core.training.loop import Training
from explora.errors import DataError

SCORED_ROWS = 1000  # limit for dev rows; an accuracy of this many rows is within 0.03


def learn(request: Mapping[str, Any]) -> dict[str, Any]:
    """Train and score; return the Learned as JSON data."""
    lesson = Lesson.from_json(request)
    run = _constant(lesson)
    session, train, dev = assemble_for_training(run)
    judges = _some(dev.examples, run.training.seed)
    with tempfile.TemporaryDirectory(prefix="explora-lesson-") as scratch:
        training = Training(session.model, session.task, run, train.examples, judges, Path(scratch))
        training.steps = sys.maxsize  # `_scores` ends the lesson; warm-up is still a share of its own steps
        training.plan_features()
        untrained = _evaluation(session, training, train.examples)
        curve = [_point(untrained, training), *_scores(session, training, lesson)]
    metric = session.task.metric
    floor = untrained.floors.get(metric)
    return Learned(
        metric=metric,
        higher_is_better=session.task.higher_is_better,
        examples=len(judges),
        trivial=None if floor is None else Trivial(floor, untrained.trivial_answers[metric]),
        steps=lesson.steps,
        seconds=lesson.seconds,
        curve=tuple(curve),
    ).to_json()


def _scores(session: Session, training: Training, lesson: Lesson) -> Iterator[Point]:
    """Train, and yield scores at the marks and whenever one of the lesson's times is over."""
    waiting = list(lesson.seconds)
    for event in training.events():
        if not isinstance(event, StepDone):
            continue
        late = [seconds for seconds in waiting if training.progress.seconds >= seconds]
        if late or event.step in marks(lesson.steps):
            yield _point(_evaluation(session, training), training)
        waiting = waiting[len(late) :]
        if event.step >= lesson.steps and not waiting:
            return


def _constant(lesson: Lesson) -> TrainRun:
    run, steps = lesson.run, lesson.steps
    return dataclasses.replace(
        run,
        optimizer=dataclasses.replace(run.optimizer, schedule="constant"),
        training=dataclasses.replace(run.training, accumulate=1, max_steps=steps, eval_every=sys.maxsize),
        runtime=resolve_runtime(run.runtime),
    )


def _some(examples: Sequence[Example], seed: int) -> Sequence[Example]:
    """Return SCORED_ROWS examples chosen by the seed, or all if there are fewer."""
    if len(examples) <= SCORED_ROWS:
        return examples
    chosen = sorted(random.Random(seed).sample(range(len(examples)), SCORED_ROWS))
    return [examples[row] for row in chosen]


def _point(evaluation: Evaluation, training: Training) -> Point:
    at, metric = training.progress, training.task.metric
    low, high = evaluation.intervals[metric]
    score = evaluation.statistics[metric]
    return Point(steps=at.step, seconds=at.seconds, score=score.value, low=low, high=high, statistics=score)


def _evaluation(session: Session, training: Training, train: Sequence[Example] = ()) -> Evaluation:
    session.model.eval()
    found = session.task.evaluate(session.model, training.dev, train, 2 * training.run.training.batch_size)
    if found.scores is None:
        raise DataError("dev scores need labels", file=training.run.data.data or "samples")
    return found


if __name__ == "__main__":
    answer(learn)
