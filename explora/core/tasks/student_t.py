"""Student's t distribution for any degrees of freedom: the tail beyond a value, and the value of a level."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

MOST = 2000.0  # degrees of freedom beyond which the distribution is the normal one to three digits
ANGLES = np.linspace(0, math.pi / 2, 20_001)


def two_sided_p(value: float, degrees: float) -> float:
    """Return the probability of a |t| of at least |`value`|."""
    degrees = min(degrees, MOST)
    inside = np.interp(math.atan(abs(value) / math.sqrt(degrees)), ANGLES, _inside(degrees))
    return float(1 - inside)


def critical_value(level: float, degrees: float) -> float:
    """Return the t that |t| stays below with the probability `level`."""
    degrees = min(degrees, MOST)
    return math.sqrt(degrees) * math.tan(float(np.interp(level, _inside(degrees), ANGLES)))


@lru_cache(maxsize=1)  # an interval and its p-value ask for the same
def _inside(degrees: float) -> NDArray[np.float64]:
    """Return the probabilities of |t| <= sqrt(degrees) tan(angle): t's density is cos^(degrees - 1) there."""
    density = np.cos(ANGLES) ** (degrees - 1)
    areas = np.cumsum(density[1:] + density[:-1])
    return np.concatenate([np.zeros(1), areas / areas[-1]])
