"""Student's t: against its closed forms for one and two degrees of freedom, and the printed tables."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest

from explora.core.tasks.student_t import critical_value, two_sided_p

TABLE = {2: 4.302653, 3: 3.182446, 4: 2.776445, 10: 2.228139, 30: 2.042272, 120: 1.979930}


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0, 4.0, 30.0])
def test_tails_have_their_closed_forms(t: float) -> None:
    assert two_sided_p(t, 1) == pytest.approx(1 - 2 * math.atan(t) / math.pi, abs=1e-7)
    assert two_sided_p(-t, 2) == pytest.approx(1 - t / math.sqrt(2 + t * t), abs=1e-7)


@pytest.mark.parametrize("degrees", TABLE)
def test_critical_values_are_those_of_the_tables(degrees: int) -> None:
    assert critical_value(0.95, degrees) == pytest.approx(TABLE[degrees], abs=1e-5)
    assert two_sided_p(TABLE[degrees], degrees) == pytest.approx(0.05, abs=1e-6)


def test_degrees_need_not_be_whole_and_many_give_the_normal_distribution() -> None:
    assert TABLE[3] < critical_value(0.95, 2.5) < TABLE[2]
    assert critical_value(0.95, 1e9) == pytest.approx(NormalDist().inv_cdf(0.975), abs=2e-3)
