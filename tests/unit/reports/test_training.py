"""What the report of `train` says of made-up runs."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from explora.core.config.precedence import resolve
from explora.core.estimate.memory import Memory
from explora.core.reports.document import Bars, Block, Curves, Intervals, Report, Table
from explora.core.reports.seed_bands import STRETCHES, mean_curve, smooth
from explora.core.reports.trained_runs import TrainedRun
from explora.core.reports.training import training_report
from explora.core.runs.record import RunRecord

MEMORY = Memory(
    runtime=300_000_000,
    weights=20_000_000,
    gradients=0,
    optimizer=0,
    activations=10_000_000,
    temporaries=0,
    fragmentation=0,
)


def trained(seed: int, rate: float, dev: tuple[float, ...], **changes: Any) -> TrainedRun:
    """A run of four steps, scored after each second one."""
    config, _ = resolve("paraphrase", {"seed": seed, "learning_rate": rate, "threads": 1})
    result = {
        "run": f"runs/{rate}-{seed}",
        "scores": {"accuracy": dev[-1]},
        "intervals": {"accuracy": [dev[-1] - 0.1, dev[-1] + 0.1]},
        "floors": {"accuracy": 0.5},
        "trivial_answers": {"accuracy": "always no"},
        "higher_is_better": {"accuracy": True},
        "best_step": 2 * (1 + max(range(len(dev)), key=dev.__getitem__)),
        "steps": 4,
        "total": 1000,
        "trainable": 10,
        "share": 0.01,
        "seconds": 60.0,
        "tokens_per_second": 100.0 * seed,
        "peak_memory_bytes": 340_000_000 + seed,
    }
    values: dict[str, Any] = {
        "name": f"lora-{rate}-{seed}",
        "record": RunRecord(run=config, result=result, machine={"cores": 2, "memory_bytes": 8e9}),
        "varied": {"learning_rate": f"{rate:g}", "seed": f"{seed}"},
        "losses": tuple((step, 2.0 / step) for step in range(1, 5)),
        "dev": tuple((2 * (n + 1), value) for n, value in enumerate(dev)),
        "memory": MEMORY,
    }
    return TrainedRun(**values | changes)


RUNS = [
    trained(1, 0.001, (0.5, 0.6)),
    trained(2, 0.001, (0.6, 0.7)),
    trained(1, 0.01, (0.5, 0.8)),
    trained(2, 0.01, (0.9, 0.4)),
]


def made(runs: list[TrainedRun], *, higher: bool = True) -> Report:
    return training_report("explora train <x>", runs, "accuracy", higher_is_better=higher)


def blocks(found: Report, heading: str, kind: type[Block]) -> list[Any]:
    (section,) = [each for each in found.sections if each.heading == heading]
    return [block for block in section.blocks if isinstance(block, kind)]


def test_runs_are_ranked_by_the_score_of_the_step_that_was_kept():
    found = made(RUNS)
    runs, seeds = blocks(found, "Scores", Table)
    assert [line[0] for line in runs.lines] == ["lora-0.01-2", "lora-0.01-1", "lora-0.001-2", "lora-0.001-1"]
    assert runs.lines[0][1:3] == ("0.9000", "2")
    assert (0, 1) in runs.best
    speed = runs.header.index("tokens/s")
    assert {line for line, column in runs.best if column == speed} == {0, 2}
    assert seeds.lines[0] == ("learning rate 0.01", "2", "0.8500", "0.8000", "0.9000")
    assert "0.9, at step 2 of 4" in found.lead[0]
    assert "optimistic" in found.lead[-1]
    assert made(RUNS, higher=False).lead[0] != found.lead[0]


def test_curves_of_equal_settings_are_a_mean_with_a_band():
    losses, dev = blocks(made(RUNS), "Learning curves", Curves)
    assert [each.label for each in dev.series] == ["learning rate 0.01", "learning rate 0.001"]
    assert dev.series[1].ys == pytest.approx((0.55, 0.65))
    assert (dev.series[1].low, dev.series[1].high) == ((0.5, 0.6), (0.6, 0.7))
    assert losses.series[0].xs == (1, 2, 3, 4)
    assert [level.value for level in dev.levels] == [0.5]


def test_the_learning_rate_response_is_there_where_it_varies():
    (response,) = blocks(made(RUNS), "Scores", Curves)
    assert response.log_x
    assert response.series[0].xs == (0.001, 0.01)
    assert response.series[0].ys == pytest.approx((0.65, 0.85))
    assert blocks(made(RUNS[:2]), "Scores", Curves) == []


def test_equal_predictions_of_memory_share_a_line_with_the_largest_measured_peak():
    (bars,), (table,) = (blocks(made(RUNS), "Memory", kind) for kind in (Bars, Table))
    assert len(bars.bars) == 1
    assert bars.bars[0].mark == pytest.approx(340.000002)
    assert bars.bars[0].length == pytest.approx(330)
    assert table.lines[0][0] == "lora-0.01-2 +3"
    assert table.lines[0][-2:] == ("330.0", "340.0")
    unknown = made([dataclasses.replace(RUNS[0], memory=None)])
    assert blocks(unknown, "Memory", Bars) == []
    assert blocks(unknown, "Memory", Table)[0].lines == (("lora-0.001-1", "340.0"),)


def test_one_run_has_its_scores_with_trivial_answers_and_no_band():
    found = made(RUNS[:1])
    (scores,), (plot,) = (blocks(found, "Scores", kind) for kind in (Table, Intervals))
    assert scores.lines == (("accuracy", "0.6", "0.5", "0.7", "0.5", "always no", "higher"),)
    assert plot.items[0].mark == 0.5
    assert blocks(found, "Learning curves", Curves)[1].series[0].low == ()
    settings = blocks(found, "How it was made", Table)[0]
    assert ("learning-rate", "0.001") in settings.lines or ("lr", "0.001") in settings.lines


def test_trivial_answers_of_different_rows_are_no_level():
    other = trained(3, 0.1, (0.5, 0.6))
    result = {**other.result, "floors": {"accuracy": 0.4}}
    other = dataclasses.replace(other, record=dataclasses.replace(other.record, result=result))
    assert blocks(made([*RUNS, other]), "Learning curves", Curves)[1].levels == ()


def test_long_curves_are_smoothed_at_the_same_steps_for_all_seeds():
    points = tuple((step, float(step)) for step in range(1, 1001))
    found = smooth(points, 1000)
    assert len(found) == STRETCHES
    assert found[0] == (17, 9.0)
    assert smooth(points[:500], 1000)[:-1] == found[:29]
    assert mean_curve("", [((1, 1.0), (2, 2.0)), ((2, 4.0), (3, 5.0))]).xs == (2,)


def test_runs_that_share_no_step_have_no_curve():
    other = dataclasses.replace(RUNS[1], losses=((9, 1.0),), dev=((9, 0.5), *RUNS[1].dev[:0]))
    result = {**other.result, "best_step": 9}
    other = dataclasses.replace(other, record=dataclasses.replace(other.record, result=result))
    assert made([RUNS[0], other]).sections[1].blocks == ()
