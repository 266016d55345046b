"""Fine-tune GPT-2 on your computer, and measure whether LoRA is worth using there.

`explora.configure`, `.train`, `.sweep`, `.load`, `.evaluate` and `.generate` are the commands' work from
Python; they are imported when first used, because they bring torch.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

_API = ("configure", "evaluate", "generate", "load", "sweep", "train")


def __getattr__(name: str) -> Any:
    if name not in _API:
        raise AttributeError(f"module 'explora' has no attribute {name!r}")
    from explora import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return [*globals(), *_API]
