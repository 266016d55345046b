"""Copy tensors to a device without making the host wait for it."""

from __future__ import annotations

import torch
from torch import Tensor


def copy_to(value: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host on a device; itself, if that is where it is.

    A GPU reads it from pinned memory, in the background.
    """
    pinned = value.pin_memory() if device.type == "cuda" else value
    return pinned.to(device, non_blocking=True)
