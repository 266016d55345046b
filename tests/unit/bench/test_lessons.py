"""What is learned: scores of the real training, after equal steps and after equal time."""

from __future__ import annotations

import dataclasses
import json

import pytest

from explora.core.bench import lesson_process as quality
from explora.core.bench import run as running
from explora.core.bench.lesson_process import learn
from explora.core.bench.lessons import Learned, Lesson
from explora.core.bench.measurements import Contender
from explora.core.bench.plan import Plan
from explora.core.bench.run import open_bench
from explora.core.runs.assemble import assemble_for_training
from explora.core.runtime.resolve import resolve_runtime
from explora.core.training.events import StepDone
from explora.core.training.loop import Training
from explora.errors import TrainingError
from tests.cells_here import ask_here, found, learned, point, right
from tests.tiny_models import PAIRS, tiny_run

pytestmark = pytest.mark.usefixtures("short_poems")


def lesson(run, steps=8, seconds=()) -> dict:
    return Lesson(run=run, steps=steps, seconds=seconds).to_json()


@pytest.mark.parametrize(("task", "method"), PAIRS)
def test_every_task_learns_with_every_method(task, method, tiny_base, tiny_data):
    run = tiny_run(tiny_base, tiny_data, task, method=method)
    got = Learned.from_json(learn(lesson(run, steps=3))).timed_by_itself()
    assert [point.steps for point in got.curve] == [0, 1, 2, 3]
    assert got.curve[-1] is got.equal_steps is got.equal_time
    assert got.untrained.seconds == 0
    assert got.trivial is not None
    for at in got.curve:
        assert at.low <= at.score <= at.high
        assert at.statistics.value == at.score
        assert len(at.statistics.order) == got.examples


def test_the_score_is_that_of_a_real_training(tiny_base, tiny_data, tmp_path):
    run = tiny_run(tiny_base, tiny_data, "text", max_steps=8, schedule="constant")
    run = dataclasses.replace(run, runtime=resolve_runtime(run.runtime))
    got = Learned.from_json(learn(lesson(run)))
    assert [point.steps for point in got.curve] == [0, 2, 4, 8]
    session, train, dev = assemble_for_training(run)
    training = Training(session.model, session.task, run, train.examples, dev.examples, tmp_path)
    steps = (event for event in training.events() if isinstance(event, StepDone))
    assert next(event for event in steps if event.step == 8)
    session.model.eval()
    assert got.equal_steps.score == session.task.dev_score(session.model, dev.examples, 8).value
    assert got.curve[0].score != got.curve[-1].score


def test_time_goes_on_after_the_steps_and_steps_after_the_time(tiny_base, tiny_data):
    run = tiny_run(tiny_base, tiny_data, "paraphrase")
    at_once = Learned.from_json(learn(lesson(run, seconds=(0.0, 0.0, 0.0))))
    assert at_once.equal_time.steps == 0
    assert at_once.equal_steps.steps == 8
    longer = Learned.from_json(learn(lesson(run, steps=1, seconds=(0.01, 0.02, 0.5))))
    assert longer.equal_steps.steps == 1
    assert longer.equal_time.steps > 1
    assert longer.equal_time.seconds >= 0.5
    assert longer.equal_time is longer.curve[-1]


def test_dev_is_bounded(tiny_base, tiny_data, monkeypatch):
    run = tiny_run(tiny_base, tiny_data, "paraphrase")
    monkeypatch.setattr(quality, "SCORED_ROWS", 3)
    assert Learned.from_json(learn(lesson(run, steps=1))).examples == 3


def test_the_slowest_sets_the_time_for_the_others(tiny_base, tiny_data, monkeypatch, tmp_path):
    speeds = {"full": 50.0, "lora": 100.0, "last-linear": 200.0}
    asked: list[tuple[str, list[float]]] = []

    def ask(module, request, environment=None):
        method = request["run"]["method"]["method"]
        if module == running.CELL:
            return found(speeds[method]).to_json()
        asked.append((method, request["seconds"]))
        if method == "lora":
            raise TrainingError("the loss is nan")
        steps = ((0, 0.0), (10, 2.0), (20, 4.5), (40, 8.0))
        curve = tuple(point(right(150), *at) for at in steps)
        return learned(right(150), seconds=tuple(request["seconds"]), curve=curve).to_json()

    monkeypatch.setattr(running, "ask", ask)
    contenders = tuple(
        Contender(run=tiny_run(tiny_base, tiny_data, "paraphrase", method=method)) for method in speeds
    )
    bench = open_bench(
        Plan(contenders=contenders, repeats=1, steps=2, learning=True, lesson_steps=40), tmp_path
    )
    list(bench.measure())
    assert bench.lessons()[0] == 3
    done = list(bench.learn())
    assert asked == [("full", []), ("lora", [2.0, 4.5, 8.0]), ("last-linear", [2.0, 4.5, 8.0])]
    assert [each.error for each in done] == ["", "the loss is nan", ""]
    full, lora, last = bench.result().rows
    assert full.quality is not None
    assert last.quality is not None
    assert lora.quality is None


def test_without_a_number_the_steps_fit_the_time_and_the_epochs(tiny_base, tiny_data, monkeypatch, tmp_path):
    monkeypatch.setattr(
        running, "ask", lambda module, request, environment=None: found(seconds=2.0, steps=2).to_json()
    )
    run = tiny_run(tiny_base, tiny_data, "paraphrase")
    bench = open_bench(Plan(contenders=(Contender(run=run),), repeats=1, steps=2, learning=True), tmp_path)
    list(bench.measure())
    whole = run.training.epochs * -(-bench.examples // run.training.batch_size)
    assert bench.lesson_steps(bench.groups[0]) == whole
    monkeypatch.setattr(running, "LEARNING_SECONDS", 5.0)
    assert bench.lesson_steps(bench.groups[0]) == 5


def test_a_whole_bench_learns(tiny_base, tiny_data, monkeypatch, tmp_path):
    monkeypatch.setattr(running, "ask", ask_here)
    runs = [tiny_run(tiny_base, tiny_data, "paraphrase", method=method) for method in ("full", "lora")]
    contenders = tuple(Contender(run=run) for run in runs)
    bench = open_bench(
        Plan(contenders=contenders, repeats=1, steps=2, learning=True, lesson_steps=3), tmp_path
    )
    list(bench.measure())
    list(bench.learn())
    result = bench.result()
    assert all(row.quality and row.quality.equal_steps.steps == 3 for row in result.rows)
    (comparison,) = result.comparisons
    assert [score.seconds for score in comparison.scores] == list(result.rows[0].quality.seconds)


def test_a_lesson_survives_json(tiny_base, tiny_data):
    asked = Lesson(run=tiny_run(tiny_base, tiny_data), steps=3, seconds=(1.5, 3.0))
    assert Lesson.from_json(asked.to_json()) == asked
    got = json.loads(json.dumps(learned(right(150)).to_json()))
    assert Learned.from_json(got).to_json() == got
