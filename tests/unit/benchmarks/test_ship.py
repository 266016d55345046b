"""What the package holds of the study: complete sweeps alone, in a form that is read back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.study.plan import read_plan
from benchmarks.study.rows import pack
from benchmarks.study.ship import complete, pack_study, write_study
from explora.core.advice.outcomes import find_outcomes
from explora.core.advice.study import Study, read_study
from explora.core.tasks.metrics import accuracy

STAGE = "quora-rates"


def row(cell: Any, score: float) -> dict[str, Any]:
    """A row as the runner writes it; the rows of one seed differ where their scores differ."""
    right = round(200 * score)
    return {
        "cell": cell.name,
        "stage": cell.stage,
        "task": cell.data.task,
        "data": cell.data.name,
        "base": cell.base,
        "base_digest": "0",
        "contender": cell.contender,
        "settings": dict(cell.settings),
        "power": cell.power,
        "seed": cell.seed,
        "amp": "off",
        "metric": "accuracy",
        "higher_is_better": True,
        "dev": score,
        "score": score,
        "trivial": 0.5,
        "forgetting": [1.0, 1.25],
        "by_example": pack(accuracy([1] * right + [0] * (200 - right), [1] * 200)),
        "steps": 500,
        "examples": 4000,
        "tokens": 400_000,
        "trainable": 1000,
        "processor_seconds": 100.0,
    }


def test_a_sweep_under_way_is_left_out_and_the_rest_is_read_back(tmp_path):
    plan = read_plan()
    cells = plan.cells(plan.stage(STAGE), [])
    swept = [row(cell, 0.7 if cell.power == 0 else 0.6) for cell in cells if cell.contender == "full"]
    begun = [row(cell, 0.9) for cell in cells if cell.contender == "ia3" and cell.power < 0]
    assert complete(plan, [*swept, *begun]) == swept

    rows, shipped = tmp_path / "rows.jsonl", tmp_path / "trials.json"
    rows.write_text("".join(json.dumps(each) + "\n" for each in [*swept, *begun]), encoding="utf-8")
    write_study(pack_study(rows), shipped)
    study = Study.from_json(json.loads(shipped.read_text(encoding="utf-8")))
    (found,) = find_outcomes(study)
    assert (found.contender, found.score, found.cell.length) == ("full", 0.7, 50.0)
    # 20 rows of 200 differ from the best: sqrt(0.1 * 0.9 / 200) = 2.1 points
    errors = {trial.score: trial.error for trial in study.trials}
    assert errors[0.7] == 0 and errors[0.6] == pytest.approx(2.1, abs=0.2)


def test_what_is_shipped_is_read_and_each_method_is_known():
    study = read_study()
    assert {trial.contender for trial in study.trials} <= study.contenders.keys()
    assert {trial.cell for trial in study.trials} <= study.cells.keys()
