"""What a sweep's folders record, and which of it counts when the sweep goes on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from explora.core.config.run_config import TrainRun
from explora.core.runs.record import RunRecord, write_record
from explora.core.sweeps.cells import Cell, cross
from explora.core.sweeps.outcomes import State, forget_failure, read_outcome, record_failure
from explora.core.sweeps.plan import PLAN_FILE, Plan, adopt, publish_plan, read_plan
from explora.core.sweeps.several import Several
from explora.errors import UsageError


@pytest.fixture
def plan() -> Plan:
    return Plan(task="text", cells=cross("text", {"rank": Several((2, 4)), "layers": (0, 1)}).cells)


def with_amp(cell: Cell, amp: str) -> Cell:
    runtime = dataclasses.replace(cell.run.runtime, amp=amp)
    return dataclasses.replace(cell, run=dataclasses.replace(cell.run, runtime=runtime))


def record(folder: Path, run: TrainRun, result: dict[str, int]) -> None:
    write_record(folder, RunRecord(run=run, result=result, machine={}))


def test_a_plan_is_read_as_it_was_written(plan: Plan, tmp_path: Path) -> None:
    assert publish_plan(tmp_path, plan) == plan
    assert read_plan(tmp_path) == plan
    assert [path.name for path in tmp_path.iterdir()] == [PLAN_FILE]


def test_of_two_machines_that_start_at_once_the_first_decides(plan: Plan, tmp_path: Path) -> None:
    first = Plan(task="text", cells=tuple(with_amp(cell, "bf16") for cell in plan.cells))
    publish_plan(tmp_path, first)
    assert publish_plan(tmp_path, plan) == first  # auto gives way to what was decided
    with pytest.raises(UsageError, match="has another sweep"):
        publish_plan(tmp_path, Plan(task="text", cells=tuple(with_amp(cell, "off") for cell in plan.cells)))


def test_a_plan_with_fewer_or_other_cells_is_another(plan: Plan) -> None:
    for cells in (plan.cells[:1], cross("text", {"rank": Several((2, 8)), "layers": (0, 1)}).cells):
        with pytest.raises(UsageError, match="has another sweep: lora-r"):
            adopt(cells, plan, Path("out"))


def test_a_damaged_plan_is_named(tmp_path: Path) -> None:
    (tmp_path / PLAN_FILE).write_text('{"task": "text"}')
    with pytest.raises(UsageError, match=r"sweep.json is damaged"):
        read_plan(tmp_path)


def test_a_folder_tells_how_far_its_cell_came(plan: Plan, tmp_path: Path) -> None:
    run = plan.cells[0].run
    assert read_outcome(tmp_path, run).state is State.WAITING
    record(tmp_path, run, {})
    assert read_outcome(tmp_path, run).state is State.STOPPED
    record_failure(tmp_path, "the loss is nan\nat step 3", "hint: --lr")
    failed = read_outcome(tmp_path, run)
    assert (failed.state, failed.error) == (State.FAILED, "the loss is nan at step 3")
    forget_failure(tmp_path)
    record(tmp_path, run, {"steps": 3})
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1, "perplexity": 9.5, "best": true}\n{"step": 2, "perplexity": 8.5, "best": true}\n'
        '{"step": 3, "perplexity": 8.9, "best": false}\n'
    )
    done = read_outcome(tmp_path, run)
    assert (done.state, done.dev, done.result) == (State.FINISHED, 8.5, {"steps": 3})


def test_threads_and_steps_found_by_the_run_are_no_other_settings(plan: Plan, tmp_path: Path) -> None:
    run = plan.cells[0].run
    timed = dataclasses.replace(run, training=dataclasses.replace(run.training, max_minutes=5.0))
    found = dataclasses.replace(
        timed,
        training=dataclasses.replace(timed.training, max_steps=77),
        runtime=dataclasses.replace(timed.runtime, threads=2),
    )
    record(tmp_path, found, {})
    assert read_outcome(tmp_path, timed).state is State.STOPPED
    with pytest.raises(UsageError, match="has another run than the plan"):
        read_outcome(tmp_path, run)
