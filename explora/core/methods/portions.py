"""Portions of a large matrix by rows, so that casts and products of one portion fit into a cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

NUMBERS_AT_ONCE = 1 << 18


def in_portions(matrix: Tensor) -> Sequence[Tensor]:
    """Return views of consecutive rows of a matrix (N, columns)."""
    portions: Sequence[Tensor] = matrix.split(max(1, NUMBERS_AT_ONCE // matrix.shape[1]))  # type: ignore[no-untyped-call]
    return portions
