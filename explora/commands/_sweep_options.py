"""Declare the options of `train` for a sweep as a whole, and decide whether there is a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from explora.core.sweeps.plan import PLAN_FILE
from explora.core.sweeps.several import Several
from explora.errors import UsageError

_sweep_option = partial(typer.Option, rich_help_panel="Sweep")

Seeds = Annotated[
    int | None,
    _sweep_option(
        "--seeds", metavar="N", min=1, help="Train with N seeds in a row, from --seed on (default: 1)."
    ),
]
Jobs = Annotated[
    int | None,
    _sweep_option(
        "--jobs", metavar="N", min=1, help="Train N cells at once, each on its own cores (default: 1)."
    ),
]
ShardText = Annotated[
    str | None,
    _sweep_option(
        "--shard", metavar="I/N", help="Train part I of N parts, on several machines (default: all)."
    ),
]


@dataclass(frozen=True, kw_only=True)
class Sweeping:
    """The options of `train` for a sweep as a whole."""

    seeds: int | None
    jobs: int | None
    shard: str | None


def is_sweep(settings: Mapping[str, Any], sweeping: Sweeping, output: Path | None, *, resume: bool) -> bool:
    """Return whether these options ask for a sweep. Raises UsageError for options that only a sweep has."""
    if any(isinstance(value, Several) for value in settings.values()) or (sweeping.seeds or 1) > 1:
        return True
    if resume and output is not None and (output / PLAN_FILE).is_file():
        return True
    for name in ("jobs", "shard"):
        if getattr(sweeping, name) is not None:
            raise UsageError(
                f"--{name} belongs to a sweep, and this is a single run",
                "give an option several values, such as --lora 4,8, or --seeds 3",
            )
    return False
