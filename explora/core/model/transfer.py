"""Copy tensors to a device without making the host wait."""

from __future__ import annotations

import torch
from torch import Tensor


def copy_to(value: Tensor, device: torch.device) -> Tensor:
    """Return a copy of a host tensor on a device; the tensor itself if the device is the host.

    A GPU copies it from pinned memory in the background.
    """
    pinned = value.pin_memory() if device.type == "cuda" else value
    return pinned.to(device, non_blocking=True)
