"""Draw rows of token ids that lie on the device: of running text, of answered documents, of single pairs.

A batch depends on the seed and its number alone, so that a resumed run draws the same batches.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
import torch
from pack_tokens import Ids
from torch import Tensor


def on_device(ids: Ids, device: torch.device) -> Tensor:
    """Return ids as int16, two bytes each: indexing uint16 is not implemented everywhere."""
    return torch.from_numpy(ids.astype(np.int16)).to(device)


class _Shuffled:
    """Batches of indices below `count`, in a new order each epoch; an incomplete last batch is dropped."""

    def __init__(self, count: int, rows: int, seed: int) -> None:
        if count < rows:
            raise ValueError(f"{count} rows do not fill a batch of {rows}")
        self.count, self.rows, self.seed = count, rows, seed
        self.batches = count // rows
        self.epoch = -1
        self.order = torch.empty(0, dtype=torch.int64)

    def batch(self, number: int) -> tuple[int, Tensor]:
        """Return the epoch and the indices of a batch."""
        epoch, place = divmod(number, self.batches)
        if epoch != self.epoch:
            generator = torch.Generator().manual_seed(self.seed * 10_007 + epoch)
            self.epoch, self.order = epoch, torch.randperm(self.count, generator=generator)
        return epoch, self.order[place * self.rows : (place + 1) * self.rows]


class TextRows:
    """Rows of running text. Each epoch cuts the segments at another offset.

    segments: ids and how often an epoch reads them. Batches are (rows, length + 1): the last token of a row
    is only predicted.
    """

    def __init__(
        self, segments: Sequence[tuple[Ids, int]], length: int, rows: int, seed: int, device: torch.device
    ) -> None:
        self.length = length
        self.ids = on_device(np.concatenate([ids for ids, _ in segments]), device)
        begins = np.cumsum([0, *(len(ids) for ids, _ in segments)])
        starts = [
            np.tile(begin + length * np.arange(max(0, len(ids) // length - 1)), times)
            for (ids, times), begin in zip(segments, begins[:-1], strict=True)
        ]
        self.starts = torch.from_numpy(np.concatenate(starts))
        self.shuffled = _Shuffled(len(self.starts), rows, seed)
        self.places = torch.arange(length + 1, device=device)

    def batch(self, number: int) -> Tensor:
        """Return ids (rows, length + 1)."""
        epoch, chosen = self.shuffled.batch(number)
        offset = epoch * 197 % self.length  # 197 is prime to any power of two: all offsets in turn
        starts = (self.starts[chosen] + offset).to(self.ids.device, non_blocking=True)
        return self.ids[starts[:, None] + self.places].long()


class AnsweredRows:
    """Rows that begin with an answered document and go on with the next ones; shapes as of TextRows."""

    def __init__(self, ids: Ids, end: int, length: int, rows: int, seed: int, device: torch.device) -> None:
        self.ids = on_device(ids, device)
        self.starts = torch.tensor(row_starts(ids, end, length))
        self.shuffled = _Shuffled(len(self.starts), rows, seed)
        self.places = torch.arange(length + 1, device=device)

    def batch(self, number: int) -> Tensor:
        """Return ids (rows, length + 1)."""
        _, chosen = self.shuffled.batch(number)
        starts = self.starts[chosen].to(self.ids.device, non_blocking=True)
        return self.ids[starts[:, None] + self.places].long()


def row_starts(ids: Ids, end: int, length: int) -> list[int]:
    """Return where rows of `length` + 1 tokens begin: at documents, and again at one that was cut off."""
    starts = [0, *(np.flatnonzero(ids == end) + 1).tolist()]
    chosen: list[int] = []
    following = 0
    while following + length < len(ids):
        chosen.append(following)
        begun = starts[bisect_right(starts, following + length) - 1]
        following = begun if begun > chosen[-1] else following + length
    return chosen


class PairRows:
    """Single answered documents of up to `length` tokens, padded on the right with `end`."""

    def __init__(self, ids: Ids, end: int, length: int, rows: int, seed: int, device: torch.device) -> None:
        ends = np.flatnonzero(ids == end)
        starts = np.concatenate([[0], ends[:-1] + 1])
        short = ends - starts <= length
        self.starts = torch.from_numpy(starts[short]).to(device)
        self.sizes = torch.from_numpy((ends - starts)[short]).to(device)  # with the answer, without the end
        self.ids = on_device(np.concatenate([ids, np.full(length, end, ids.dtype)]), device)
        self.shuffled = _Shuffled(len(self.starts), rows, seed)
        self.places, self.end = torch.arange(length, device=device), end

    def batch(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return prompts (rows, length), the places of their last tokens (rows,), and answers (rows,)."""
        chosen = self.shuffled.batch(number)[1].to(self.ids.device, non_blocking=True)
        starts, answer_at = self.starts[chosen], self.sizes[chosen] - 1
        documents = self.ids[starts[:, None] + self.places].long()
        answers = documents.gather(1, answer_at[:, None])[:, 0]
        prompts = documents.masked_fill(self.places >= answer_at[:, None], self.end)
        return prompts, answer_at - 1, answers
