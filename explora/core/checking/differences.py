"""Differences between tensors and their expected values."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Return ||found - expected|| / ||expected||, computed in fp64.

    Infinity if the shapes differ, or if only `expected` is zero.
    """
    if found.shape != expected.shape:
        return math.inf
    expected = expected.detach().double()
    apart, size = float((found.detach().double() - expected).norm()), float(expected.norm())
    if size == 0:
        return 0.0 if apart == 0 else math.inf
    return apart / size


def largest_difference(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Return the largest relative difference of tensors by name; infinity if the names differ."""
    if found.keys() != expected.keys():
        return math.inf
    apart = [relative_difference(found[name], expected[name]) for name in expected]
    return math.nan if any(map(math.isnan, apart)) else max(apart, default=0.0)


def different_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> int:
    """Return how many tensors of `expected` have different bits in `found`."""
    return sum(not value.equal(found[name]) for name, value in expected.items())
