"""Put a method's layers in the place of plain ones, and merge them into plain ones again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import nn

from explora.core.model.gpt2 import GPT2, Conv1D


class AdaptedLayer(nn.Module, ABC):
    """A frozen Conv1D with what a method trains beside it."""

    @abstractmethod
    def merged(self) -> Conv1D:
        """Return a plain layer that computes the same."""


def merge_dtype(device: torch.device) -> torch.dtype:
    """Return fp64, so that a merged weight is rounded once; fp32 on a device without fp64."""
    return torch.float32 if device.type == "mps" else torch.float64


def replace_layer(model: GPT2, layer: int, module: str, make: Callable[[Conv1D], AdaptedLayer]) -> None:
    """Replace a module of a block, by its name in the block, with what `make` returns for it."""
    path, _, name = module.rpartition(".")
    owner = model.h[layer].get_submodule(path)
    setattr(owner, name, make(getattr(owner, name)))


def merge_layers(model: GPT2) -> None:
    """Replace every adapted layer with the plain one that computes the same."""
    for owner in list(model.modules()):
        for name, child in list(owner.named_children()):
            if isinstance(child, AdaptedLayer):
                setattr(owner, name, child.merged())
