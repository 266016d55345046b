"""The study: its plan, its rows and what is read from them."""

from __future__ import annotations

import os
import runpy
from typing import Any

import numpy as np
import pytest

from benchmarks.study.__main__ import main
from benchmarks.study.data import ROOT
from benchmarks.study.plan import Plan, read_plan
from benchmarks.study.results import regret
from benchmarks.study.rows import Row, append_row, best_power, pack, read_rows, unpack
from explora.core.methods.full import Full
from explora.core.tasks.metrics import accuracy, perplexity

STAGE = "sst-rates"


@pytest.fixture(scope="module")
def plan() -> Plan:
    return read_plan()


def trained(
    plan: Plan, stage: str, devs: dict[int, float | None], contender: str = "full", seed: int = 1
) -> list[Row]:
    """Rows of one contender, as the runner writes them: dev scores by power of the learning rate."""
    cells = {cell.power: cell for cell in plan.cells(plan.stage(stage), []) if cell.contender == contender}
    usual = next(iter(cells.values()))
    return [
        {
            "cell": f"embedded/{usual.data.name}-{usual.rows}/{contender}/lr{power}-seed{seed}",
            "stage": stage,
            "data": usual.data.name,
            "rows": usual.rows,
            "base": usual.base,
            "contender": contender,
            "power": power,
            "seed": seed,
            "dev": dev,
            "score": dev,
            "metric": "accuracy",
            "higher_is_better": True,
            "settings": {"learning_rate": 1e-3 * 3.0**power},
            "by_example": None if dev is None else pack(accuracy(*_answers(dev))),
        }
        for power, dev in devs.items()
    ]


def _answers(share: float) -> tuple[list[int], list[int]]:
    right = round(1000 * share)
    return [1] * right + [0] * (1000 - right), [1] * 1000


def powers(plan: Plan, rows: list[Row], contender: str = "full") -> list[int]:
    return [cell.power for cell in plan.cells(plan.stage(STAGE), rows) if cell.contender == contender]


def test_every_stage_of_the_plan_can_be_configured(plan: Plan) -> None:
    rows = [
        row
        for stage in plan.stages
        if not stage.best_of
        for contender in stage.contenders
        for row in trained(plan, stage.name, {0: 0.5}, contender)
    ]
    for stage in plan.stages:
        cells = plan.cells(plan.stage(stage.name), rows)
        assert {cell.contender for cell in cells} == set(plan.stage(stage.name).contenders)


def test_cells_have_names_of_their_own(plan: Plan) -> None:
    names = [cell.name for stage in plan.stages for cell in plan.cells(plan.stage(stage.name), [])]
    settings = {
        (cell.name, str(cell.settings), cell.seed, cell.base, cell.data.name, cell.rows)
        for stage in plan.stages
        for cell in plan.cells(plan.stage(stage.name), [])
    }
    assert len(set(names)) == len(settings)


def test_a_grid_stays_where_the_best_learning_rate_lies_inside(plan: Plan) -> None:
    assert powers(plan, trained(plan, STAGE, {-2: 0.3, -1: 0.4, 0: 0.5, 1: 0.4, 2: None})) == [
        -2,
        -1,
        0,
        1,
        2,
    ]


def test_a_grid_grows_by_one_at_the_end_where_the_best_lies(plan: Plan) -> None:
    high = {-2: 0.1, -1: 0.2, 0: 0.3, 1: 0.4, 2: 0.5}
    assert powers(plan, trained(plan, STAGE, high)) == [-2, -1, 0, 1, 2, 3]
    low = {power: 0.6 - dev for power, dev in high.items()}
    assert powers(plan, trained(plan, STAGE, low)) == [-2, -1, 0, 1, 2, -3]


def test_a_grid_grows_twice_and_no_further(plan: Plan) -> None:
    once = {-2: 0.1, -1: 0.2, 0: 0.3, 1: 0.4, 2: 0.5, 3: 0.6}
    assert 4 in powers(plan, trained(plan, STAGE, once))
    assert 5 not in powers(plan, trained(plan, STAGE, once | {4: 0.7}))


def test_a_grid_does_not_grow_before_all_of_it_is_trained(plan: Plan) -> None:
    assert powers(plan, trained(plan, STAGE, {2: 0.9})) == [-2, -1, 0, 1, 2]


def test_seeds_train_the_best_learning_rate_and_the_default(plan: Plan) -> None:
    rows = trained(plan, STAGE, {-1: 0.4, 0: 0.5, 1: 0.6})
    cells = [cell for cell in plan.cells(plan.stage("sst-seeds"), rows) if cell.contender == "full"]
    assert [(cell.power, cell.seed) for cell in cells] == [(1, 1), (0, 1), (1, 2), (0, 2), (1, 3), (0, 3)]


def test_the_best_learning_rate_is_that_of_the_choosing_rows(plan: Plan) -> None:
    rows = [dict(row) for row in trained(plan, STAGE, {0: 0.5, 1: 0.4})]
    rows[1]["score"] = 0.9  # on the rows that report, which must not choose
    assert best_power(rows, STAGE, "full") == 0


def test_lower_is_better_for_perplexity(plan: Plan) -> None:
    rows = [dict(row) | {"higher_is_better": False} for row in trained(plan, STAGE, {0: 0.4, 1: 0.6})]
    assert best_power(rows, STAGE, "full") == 0


@pytest.mark.parametrize(
    "score",
    [accuracy([0, 1, 1, 0], [1, 1, 1, 0]), perplexity([3.5, 2.25], [2, 3])],
    ids=["accuracy, first example wrong", "perplexity"],
)
def test_packed_scores_keep_every_example(score: Any) -> None:
    again = unpack(pack(score))
    assert again.value == pytest.approx(score.value)
    assert np.allclose(again.by_example, score.by_example)


def test_rows_of_several_files_count_once(tmp_path: Any) -> None:
    for file, seconds in (("a", 1), ("b", 2)):
        append_row(tmp_path / file, {"cell": "x", "seconds": seconds})
    found = read_rows([tmp_path / "a", tmp_path / "b", tmp_path / "none"])
    assert found == [{"cell": "x", "seconds": 1}]


def test_regret_is_the_loss_of_the_default_and_decides(plan: Plan) -> None:
    rows = trained(plan, STAGE, {-1: 0.5, 0: 0.56, 1: 0.6})
    lost = regret(rows, STAGE, "full", 0)
    assert lost is not None
    assert lost.value == pytest.approx(4.0)
    # paired: the better run is right wherever the other one is, so 40 of 1,000 rows differ
    assert lost.error == pytest.approx(100 * (0.04 * 0.96 / 1000) ** 0.5, rel=0.1)
    assert not lost.is_accepted
    close = regret(trained(plan, STAGE, {0: 0.597, 1: 0.6}), STAGE, "full", 0)
    assert close is not None and close.is_accepted


def test_a_new_default_moves_no_cell(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = plan.stage(STAGE)
    names = [cell.name for cell in plan.cells(stage, [])]
    assert plan.default_power(stage, "full") == pytest.approx(0)
    monkeypatch.setattr(Full, "learning_rate", 3 * Full.learning_rate)
    assert [cell.name for cell in plan.cells(stage, [])] == names
    assert plan.default_power(stage, "full") == pytest.approx(1)


def test_the_chains_of_a_gpu_have_every_stage_once(plan: Plan) -> None:
    chains = runpy.run_path(str(ROOT / "benchmarks" / "gpu" / "study.py"))["CHAINS"]
    assert sorted(name for chain in chains for name in chain) == sorted(stage.name for stage in plan.stages)


def test_costs_are_measured_on_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one thread of a training's process was once inherited by `explora bench`."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    seen: list[str | None] = []
    monkeypatch.setattr(
        "benchmarks.study.costs.measure_costs",
        lambda *_: seen.append(os.environ.get("OMP_NUM_THREADS")) or [],
    )
    assert main(["costs", "--data", "none"]) == 0
    assert seen == [None]
