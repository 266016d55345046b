"""The key-value cache for decoding.

Shapes: L layers, B rows, H heads, S stored tokens, D = head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from explora.core.config.registry import Shape
from explora.core.model.transfer import copy_to


class KeyValueCache:
    """Keys and values of the tokens that the model has read, for rows of different lengths.

    Prompts are padded on the right. The first decoded token of a row overwrites its first padding token.
    """

    def __init__(self, shape: Shape, rows: int, capacity: int, dtype: torch.dtype, device: torch.device):
        size = (shape.n_layer, rows, shape.n_head, capacity, shape.n_embd // shape.n_head)
        self.keys = torch.zeros(size, dtype=dtype, device=device)  # (L, B, H, capacity, D)
        self.values = torch.zeros(size, dtype=dtype, device=device)
        self.read = [0] * rows  # number of tokens in each row
        self.lengths = torch.zeros(rows, dtype=torch.long, device=device)  # (B,), `read` on the device
        self.span = 0  # length of the longest row
        self.even = True  # all rows have the same length

    def advance(self, read: Sequence[int]) -> None:
        """Set the number of valid tokens of each row."""
        self.read = list(read)
        self.lengths = copy_to(torch.tensor(self.read), self.keys.device)
        self.span = max(self.read)
        self.even = min(self.read) == self.span

    def keep(self, rows: Sequence[int]) -> None:
        """Remove all rows except these."""
        places = copy_to(torch.tensor(rows), self.keys.device)
        self.keys, self.values = self.keys[:, places], self.values[:, places]
        self.advance([self.read[row] for row in rows])

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values, (B, H, T, D), and return those to attend to, (B, H, S, D).

        An empty cache stores whole prompts. After that, T is 1: one new token per row.
        """
        if self.span == 0:
            self.keys[layer, :, :, : key.shape[2]] = key
            self.values[layer, :, :, : key.shape[2]] = value
            return key, value
        keys, values = self.keys[layer], self.values[layer]
        if self.even:
            keys[:, :, self.span] = key[:, :, 0]
            values[:, :, self.span] = value[:, :, 0]
        else:
            rows = torch.arange(len(key), device=key.device)
            keys[rows, :, self.lengths] = key[:, :, 0].to(keys.dtype)
            values[rows, :, self.lengths] = value[:, :, 0].to(values.dtype)
        return keys[:, :, : self.span + 1], values[:, :, : self.span + 1]

    def mask(self) -> Tensor | None:
        """Return which stored tokens the new token of each row attends to, (B, 1, 1, S); None for all."""
        if self.even:
            return None
        seen = torch.arange(self.span + 1, device=self.lengths.device) <= self.lengths[:, None]
        return seen[:, None, None, :]
