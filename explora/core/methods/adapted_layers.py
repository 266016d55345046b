"""Replacement of plain layers by a method's layers, and merging of those into plain layers again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import nn

from explora.core.model.gpt2 import GPT2, Conv1D


class AdaptedLayer(nn.Module, ABC):
    """A frozen Conv1D together with the parameters that a method trains for it."""

    @abstractmethod
    def merged(self) -> Conv1D:
        """Return a plain layer that computes the same."""


def merge_dtype(device: torch.device) -> torch.dtype:
    """Return fp64, so that a merged weight is rounded only once; fp32 on a device without fp64."""
    return torch.float32 if device.type == "mps" else torch.float64


def replace_layer(model: GPT2, layer: int, module: str, make: Callable[[Conv1D], AdaptedLayer]) -> None:
    """Replace a module of a block with the result of `make`; `module` is its name in the block."""
    path, _, name = module.rpartition(".")
    owner = model.h[layer].get_submodule(path)
    setattr(owner, name, make(getattr(owner, name)))


def merge_layers(model: GPT2) -> None:
    """Replace every adapted layer with a plain layer that computes the same."""
    for owner in list(model.modules()):
        for name, child in list(owner.named_children()):
            if isinstance(child, AdaptedLayer):
                setattr(owner, name, child.merged())
