"""Sums over the rows of large matrices: the gradients of vectors that multiply their columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

NUMBERS_AT_ONCE = 1 << 18


def column_sums(left: Tensor, right: Tensor) -> Tensor:
    """Return the sum over the rows of left * right in fp32, (columns,); both are (rows, columns)."""
    total = left.new_zeros(left.shape[1]).float()
    for some, others in zip(in_portions(left), in_portions(right), strict=True):
        total += (some.float() * others).sum(dim=0)
    return total


def in_portions(matrix: Tensor) -> Sequence[Tensor]:
    """Return views of consecutive rows, so few that casts and products of them stay in a cache."""
    portions: Sequence[Tensor] = matrix.split(max(1, NUMBERS_AT_ONCE // matrix.shape[1]))  # type: ignore[no-untyped-call]
    return portions
