"""What is learned: scores of the real training, after equal steps and after equal time."""

from __future__ import annotations

import dataclasses

import pytest

from explora.core.bench import lesson_process as quality
from explora.core.bench import run as running
from explora.core.bench.lesson_process import MARKS, learn
from explora.core.bench.lessons import Learned, Lesson
from explora.core.bench.measurements import Contender
from explora.core.bench.plan import Plan
from explora.core.bench.run import open_bench
from explora.core.runs.assemble import assemble_for_training
from explora.core.runtime.resolve import resolve_runtime
from explora.core.training.events import StepDone
from explora.core.training.loop import Training
from explora.errors import TrainingError
from tests.cells_here import ask_here, found, learned
from tests.tiny_models import PAIRS, tiny_run


def lesson(run, steps=8, seconds=None) -> dict:
    return Lesson(run=run, steps=steps, seconds=seconds).to_json()


@pytest.mark.parametrize(("task", "method"), PAIRS)
def test_every_task_learns_with_every_method(task, method, tiny_base, tiny_data):
    run = tiny_run(tiny_base, tiny_data, task, method=method)
    got = Learned.from_json(learn(lesson(run, steps=3)))
    assert got.curve[-1] == got.equal_steps == got.equal_time
    assert got.equal_steps.steps == 3
    assert got.equal_steps.low <= got.equal_steps.score <= got.equal_steps.high


def test_the_score_is_that_of_a_real_training(tiny_base, tiny_data, tmp_path):
    run = tiny_run(tiny_base, tiny_data, "text", max_steps=8, schedule="constant")
    run = dataclasses.replace(run, runtime=resolve_runtime(run.runtime))
    got = Learned.from_json(learn(lesson(run)))
    session, train, dev = assemble_for_training(run)
    training = Training(session.model, session.task, run, train.examples, dev.examples, tmp_path)
    steps = (event for event in training.events() if isinstance(event, StepDone))
    assert next(event for event in steps if event.step == 8)
    session.model.eval()
    assert got.equal_steps.score == session.task.dev_score(session.model, dev.examples, 8)
    assert [point.steps for point in got.curve] == [8 * mark // MARKS for mark in range(1, MARKS + 1)]
    assert got.curve[0].score != got.curve[-1].score


def test_time_that_is_up_at_once_is_the_first_step_and_time_that_never_is_the_last(tiny_base, tiny_data):
    run = tiny_run(tiny_base, tiny_data, "paraphrase")
    at_once = Learned.from_json(learn(lesson(run, seconds=0.0)))
    assert at_once.equal_time.steps == 1
    assert at_once.equal_time in at_once.curve
    assert at_once.equal_steps.steps == 8
    assert Learned.from_json(learn(lesson(run, seconds=1e9))).equal_time.steps == 8


def test_dev_is_bounded(tiny_base, tiny_data, monkeypatch):
    run = tiny_run(tiny_base, tiny_data, "paraphrase")
    monkeypatch.setattr(quality, "SCORED_ROWS", 3)
    assert Learned.from_json(learn(lesson(run, steps=1))).examples == 3


def test_the_fastest_sets_the_time_for_the_others(tiny_base, tiny_data, monkeypatch, tmp_path):
    speeds = {"full": 50.0, "lora": 100.0, "last-linear": 200.0}
    asked: list[tuple[str, float | None]] = []

    def ask(module, request, environment=None):
        method = request["run"]["method"]["method"]
        if module == running.CELL:
            return found(speeds[method]).to_json()
        asked.append((method, request["seconds"]))
        if method == "lora":
            raise TrainingError("the loss is nan")
        return learned(0.8).to_json()

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
    assert asked == [("last-linear", None), ("lora", 8.0), ("full", 8.0)]
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
    assert "accuracy after 3 steps each" in " ".join(result.verdict)


def test_a_lesson_survives_json(tiny_base, tiny_data):
    asked = Lesson(run=tiny_run(tiny_base, tiny_data), steps=3, seconds=1.5)
    assert Lesson.from_json(asked.to_json()) == asked
    got = learned(0.5)
    assert Learned.from_json(dataclasses.asdict(got)) == got
