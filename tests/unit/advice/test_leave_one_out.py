"""The test of the advice: no row of the same task, a constant rule beside it."""

from __future__ import annotations

import pytest

from explora.core.advice.leave_one_out import leave_one_out
from explora.core.advice.outcomes import find_outcomes
from tests.hand_made_study import make_study, trial

CELLS = {"quora": ("paraphrase", 4000), "sst": ("sentiment", 4000)}


def left_out(*trials):
    study = make_study(CELLS, trials)
    return leave_one_out(study, find_outcomes(study))


def test_the_rows_of_the_task_itself_are_left_out():
    """Where the best method differs between tasks, advice without rows of the same task is always wrong."""
    found = left_out(
        trial("quora", "full", 0.80),
        trial("quora", "lora", 0.70),
        trial("sst", "full", 0.40),
        trial("sst", "lora", 0.50),
    )
    assert [(each.cell, each.contender, round(each.shortfall)) for each in found.answers] == [
        ("quora", "lora", 10),
        ("sst", "full", 10),
    ]
    assert found.advice.near == 0 and found.constant.near == 1
    assert not found.reaches_target and not found.beats_constant


def test_equal_scores_at_a_lower_cost_beat_the_constant_rule():
    found = left_out(
        trial("quora", "full", 0.80),
        trial("quora", "lora", 0.795),
        trial("sst", "full", 0.50),
        trial("sst", "lora", 0.485),
    )
    assert [each.contender for each in found.answers] == ["full", "lora"]  # 1.5 points are no tie, 0.5 are
    assert (found.advice.share, found.constant.rule, found.constant.share) == (0.5, "always full", 1.0)
    assert not found.beats_constant
    cheap = left_out(
        trial("quora", "full", 0.80),
        trial("quora", "lora", 0.795),
        trial("sst", "full", 0.50),
        trial("sst", "lora", 0.495),
    )
    assert [each.contender for each in cheap.answers] == ["lora", "lora"]
    assert cheap.reaches_target and cheap.advice.pace == pytest.approx(0.6)
    assert cheap.constant.rule == "always lora" and not cheap.beats_constant


def test_a_single_task_cannot_be_left_out():
    found = left_out(trial("quora", "full", 0.8), trial("quora", "lora", 0.7))
    assert (found.tasks, found.advice, found.constant, found.answers) == (1, None, None, ())


def test_a_cell_without_full_fine_tuning_is_no_cell_of_the_test():
    found = left_out(
        trial("quora", "full", 0.80),
        trial("quora", "lora", 0.70),
        trial("sst", "lora", 0.50),
        trial("sst", "last-linear", 0.49),
    )
    assert [each.cell for each in found.answers] == ["quora"]
