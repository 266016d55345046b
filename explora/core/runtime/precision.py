"""Warn about a precision that this CPU only emulates."""

from __future__ import annotations

import torch

from explora.core.config.concerns import RuntimeConfig
from explora.core.runtime.probe import EMULATED_FROM, slowdown

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def precision_warning(runtime: RuntimeConfig, *, is_recorded: bool = False) -> str | None:
    """Return a one-line warning if the CPU emulates the requested precision, else None.

    runtime: as requested, before `auto` is resolved; `auto` never chooses an emulated precision. is_recorded:
    the precision comes from a resumed run and cannot be changed.
    """
    if runtime.amp not in HALF or not _is_on_cpu(runtime.device):
        return None
    times = slowdown(HALF[runtime.amp])
    if times < EMULATED_FROM:
        return None
    found = (
        f"{runtime.amp} is emulated on this CPU: "
        f"matrix products take about {times:.0f} times as long as in fp32."
    )
    if is_recorded:
        return f"the recorded precision {found} To change it, start a new run without --amp."
    return f"--amp {found} Leave --amp out to let explora choose, or use --amp off."


def _is_on_cpu(device: str) -> bool:
    return device == "cpu" or (device == "auto" and not torch.cuda.is_available())
