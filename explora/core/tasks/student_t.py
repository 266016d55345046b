"""Student's t distribution for any degrees of freedom: two-sided p-values and critical values."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

MOST = 2000.0  # with more degrees of freedom, three digits equal those of the normal distribution
ANGLES = np.linspace(0, math.pi / 2, 20_001)


def two_sided_p(value: float, degrees: float) -> float:
    """Return the probability that |t| is at least |`value`|."""
    degrees = min(degrees, MOST)
    inside = np.interp(math.atan(abs(value) / math.sqrt(degrees)), ANGLES, _inside(degrees))
    return float(1 - inside)


def critical_value(level: float, degrees: float) -> float:
    """Return the value that |t| stays below with the probability `level`."""
    degrees = min(degrees, MOST)
    return math.sqrt(degrees) * math.tan(float(np.interp(level, _inside(degrees), ANGLES)))


@lru_cache(maxsize=1)  # an interval and its p-value need the same result
def _inside(degrees: float) -> NDArray[np.float64]:
    """Return the probabilities that |t| <= sqrt(degrees) tan(angle), for all ANGLES.

    As a function of the angle, t's density is cos^(degrees - 1).
    """
    density = np.cos(ANGLES) ** (degrees - 1)
    areas = np.cumsum(density[1:] + density[:-1])
    return np.concatenate([np.zeros(1), areas / areas[-1]])
