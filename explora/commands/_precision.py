"""The warning about a precision that the CPU only emulates."""

from __future__ import annotations

from explora import console
from explora.core.config.concerns import RuntimeConfig


def warn_if_emulated(runtime: RuntimeConfig, *, is_recorded: bool = False) -> None:
    """Warn once if the CPU emulates the precision that was asked for; call it before `auto` is resolved."""
    from explora.core.runtime.precision import precision_warning

    if (warning := precision_warning(runtime, is_recorded=is_recorded)) is not None:
        console.warn(warning)
