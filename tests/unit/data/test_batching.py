"""Batches: every row once an epoch, the order from seed and epoch alone, little padding."""

from __future__ import annotations

import itertools
import random
import time

import pytest
import torch

from explora.core.data.batching import WINDOW, epoch_batches, in_length_order, pad


def realistic_lengths(count: int) -> list[int]:
    """Token counts like those of questions: a log-normal around thirty."""
    draw = random.Random(0)
    return [max(4, round(draw.lognormvariate(3.4, 0.5))) for _ in range(count)]


def share_of_padding(lengths: list[int], batches: list[list[int]]) -> float:
    padded = sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)
    return 1 - sum(lengths) / padded


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("size", [1, 3, 16, 1000])
@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 1500])
def test_every_row_comes_once_an_epoch(count: int, size: int, epoch: int) -> None:
    batches = epoch_batches(realistic_lengths(count), size, seed=1, epoch=epoch)
    assert sorted(row for batch in batches for row in batch) == list(range(count))
    assert all(0 < len(batch) <= size for batch in batches)
    assert len(batches) == -(-count // size)


def test_seed_and_epoch_alone_decide() -> None:
    lengths = realistic_lengths(300)
    random.seed(1)
    once = epoch_batches(lengths, 8, seed=5, epoch=2)
    random.seed(2)
    assert epoch_batches(lengths, 8, seed=5, epoch=2) == once
    assert epoch_batches(lengths, 8, seed=6, epoch=2) != once
    assert epoch_batches(lengths, 8, seed=5, epoch=3) != once


def test_an_epoch_mixes_rows_anew_and_not_batches_alone() -> None:
    lengths = [20] * 2000  # equal lengths: nothing but the shuffle decides who is together
    first = {frozenset(batch) for batch in epoch_batches(lengths, 8, seed=1, epoch=0)}
    second = {frozenset(batch) for batch in epoch_batches(lengths, 8, seed=1, epoch=1)}
    assert len(first & second) <= 1


@pytest.mark.parametrize("count", [40, 41, 5000])
def test_the_batch_that_takes_most_memory_runs_first_once(count: int) -> None:
    lengths = realistic_lengths(count)
    batches = epoch_batches(lengths, 8, seed=1, epoch=0)
    sizes = [len(batch) * max(lengths[row] for row in batch) for batch in batches]
    assert sizes[0] == max(sizes)
    assert sizes[1:] != sorted(sizes[1:], reverse=True)  # and only the first is chosen by size


def test_later_epochs_start_anywhere() -> None:
    lengths = realistic_lengths(500)
    firsts = [max(lengths[row] for row in epoch_batches(lengths, 8, 1, epoch)[0]) for epoch in range(1, 9)]
    assert len(set(firsts)) > 1


def test_similar_lengths_are_together() -> None:
    lengths = realistic_lengths(5000)
    batches = epoch_batches(lengths, 16, seed=1, epoch=1)
    shuffled = list(range(5000))
    random.Random(0).shuffle(shuffled)
    unsorted = [shuffled[i : i + 16] for i in range(0, 5000, 16)]
    assert share_of_padding(lengths, unsorted) > 0.4  # what it would cost
    assert share_of_padding(lengths, batches) < 0.05


def test_the_order_of_batches_is_not_one_of_lengths() -> None:
    """Sorting must not turn an epoch into a curriculum: short and long batches alternate."""
    lengths = realistic_lengths(16 * WINDOW)
    longest = [max(lengths[row] for row in batch) for batch in epoch_batches(lengths, 16, 1, 1)]
    rises = sum(a < b for a, b in itertools.pairwise(longest))
    assert 0.25 * len(longest) < rises < 0.75 * len(longest)


def test_a_large_data_set_takes_no_time() -> None:
    lengths = realistic_lengths(100_000)
    started = time.process_time()
    epoch_batches(lengths, 16, seed=1, epoch=0)
    assert time.process_time() - started < 2


def test_in_length_order_is_stable_and_complete() -> None:
    assert list(in_length_order([5, 2, 5, 1], 3)) == [[3, 1, 0], [2]]
    assert list(in_length_order([5, 2, 5, 1], 2, rows=[2, 0])) == [[2, 0]]
    assert list(in_length_order([], 2)) == []


def test_padding_is_on_the_right() -> None:
    padded = pad([[7], [1, 2, 3]], 9)
    assert padded.dtype is torch.long
    assert padded.tolist() == [[7, 9, 9], [1, 2, 3]]
