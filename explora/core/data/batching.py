"""Batches of rows with similar lengths, in an order that depends on seed and epoch only."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

WINDOW = 64  # number of batches sorted by length together: little padding, much shuffling


def epoch_batches(lengths: Sequence[int], size: int, seed: int, epoch: int) -> list[list[int]]:
    """Return the row numbers of each batch of an epoch.

    Rows are shuffled, sorted by length inside windows of 64 batches, and cut into batches of `size`; then the
    batches are shuffled. In epoch 0 the batch with the most tokens, padding included, comes first, so that a
    lack of memory shows at once.
    """
    generator = random.Random(f"{seed} {epoch}")
    order = list(range(len(lengths)))
    generator.shuffle(order)
    windows = [order[i : i + WINDOW * size] for i in range(0, len(order), WINDOW * size)]
    batches = [batch for window in windows for batch in in_length_order(lengths, size, window)]
    generator.shuffle(batches)
    if epoch == 0:
        padded = [len(batch) * max(lengths[row] for row in batch) for batch in batches]
        batches.insert(0, batches.pop(padded.index(max(padded))))
    return batches


def in_length_order(
    lengths: Sequence[int], size: int, rows: Sequence[int] | None = None
) -> Iterator[list[int]]:
    """Yield batches of rows of similar length; `rows` defaults to all rows."""
    ordered = sorted(range(len(lengths)) if rows is None else rows, key=lengths.__getitem__)
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Return rows of token ids as one (B, T) tensor, padded on the right."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], dtype=torch.long)
