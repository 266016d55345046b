"""How far tensors are from what they should be."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Return ||found - expected|| / ||expected||, computed in fp64.

    Infinity for other shapes, and where only `expected` is zero.
    """
    if found.shape != expected.shape:
        return math.inf
    expected = expected.detach().double()
    apart, size = float((found.detach().double() - expected).norm()), float(expected.norm())
    if size == 0:
        return 0.0 if apart == 0 else math.inf
    return apart / size


def largest_difference(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Return the largest relative difference of tensors by name; infinity if there are other names."""
    if found.keys() != expected.keys():
        return math.inf
    apart = [relative_difference(found[name], expected[name]) for name in expected]
    return math.nan if any(map(math.isnan, apart)) else max(apart, default=0.0)


def different_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> int:
    """Return how many of the tensors in `expected` have other bits in `found`."""
    return sum(not value.equal(found[name]) for name, value in expected.items())
