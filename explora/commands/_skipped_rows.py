"""Report the bad rows that --skip-bad left out."""

from __future__ import annotations

from collections.abc import Sequence

from explora import console


def show_skipped(messages: Sequence[str], used: int) -> None:
    """Warn of each bad row, and show how many rows were left out; `used` is the number of the others."""
    for message in messages:
        console.warn(f"skipped: {message}")
    if messages:
        console.note(f"{len(messages):,} of {len(messages) + used:,} rows skipped")
