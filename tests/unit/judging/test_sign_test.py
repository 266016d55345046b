"""The sign test against enumeration of every outcome, and its interval against the definition."""

from __future__ import annotations

from itertools import product

import pytest

from explora.core.judging.sign_test import SignTest


def count(wins_a: int, wins_b: int, ties: int = 0) -> SignTest:
    return SignTest(wins_a=wins_a, wins_b=wins_b, ties=ties)


@pytest.mark.parametrize(("wins_a", "wins_b"), [(0, 1), (3, 7), (5, 5), (9, 1), (8, 0), (6, 5)])
def test_the_p_value_counts_outcomes_that_are_at_least_as_uneven(wins_a: int, wins_b: int) -> None:
    decided = wins_a + wins_b
    outcomes = [abs(2 * sum(coins) - decided) for coins in product((0, 1), repeat=decided)]
    expected = sum(each >= abs(wins_a - wins_b) for each in outcomes) / len(outcomes)
    assert count(wins_a, wins_b).p_value == pytest.approx(expected)
    assert count(wins_b, wins_a).p_value == pytest.approx(expected)
    one_sided = sum(each > abs(wins_a - wins_b) for each in outcomes) / len(outcomes)
    assert count(wins_a, wins_b).p_value != pytest.approx(one_sided)  # planted bug: more uneven, not at least


def test_the_interval_is_that_of_clopper_and_pearson() -> None:
    """Published values: 3 of 10 and 0 of 10; and the ends turn around with the writers."""
    assert count(3, 7).interval() == pytest.approx((0.0667, 0.6525), abs=1e-4)
    assert count(0, 10).interval() == pytest.approx((0.0, 1 - 0.025**0.1))
    low, high = count(7, 3).interval()
    assert count(3, 7).interval() == pytest.approx((1 - high, 1 - low))


def test_scipy_agrees() -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    assert count(6, 5).p_value == pytest.approx(scipy_stats.binomtest(6, 11).pvalue)
    theirs = scipy_stats.binomtest(6, 11).proportion_ci(method="exact")
    assert count(6, 5).interval() == pytest.approx(tuple(theirs))


def test_ties_are_left_out() -> None:
    assert count(3, 1, ties=90).p_value == count(3, 1).p_value
    assert (count(3, 1, ties=90).decided, count(3, 1, ties=90).share_a) == (4, 0.75)


def test_without_a_decided_pair_nothing_is_known() -> None:
    nothing = count(0, 0, ties=2)
    assert (nothing.share_a, nothing.p_value, nothing.interval()) == (None, 1.0, (0.0, 1.0))
