"""Settings from options, for commands that declare their options by hand."""

from __future__ import annotations

from explora.commands._settings import given

__all__ = ["given"]
