"""The short forms of --method: --lora R, --full, --last-linear. No other command module names a method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from explora.core.config.method import Method
from explora.errors import UsageError

NAMES = ("lora", "full", "last_linear")

HINTS: dict[str, Any] = {
    "lora": Annotated[
        int | None,
        typer.Option(
            "--lora",
            metavar="R",
            rich_help_panel="Method",
            help="Short for --method lora --rank R (default: see --method and --rank).",
        ),
    ],
    "full": Annotated[
        bool | None,
        typer.Option("--full", metavar="", rich_help_panel="Method", help="Short for --method full."),
    ],
    "last_linear": Annotated[
        bool | None,
        typer.Option(
            "--last-linear", metavar="", rich_help_panel="Method", help="Short for --method last-linear."
        ),
    ],
}


def expand(values: Mapping[str, Any]) -> dict[str, Any]:
    """Replace short forms by the settings `method` and `rank`. Raises UsageError for contradictions."""
    settings = {name: value for name, value in values.items() if name not in NAMES}
    chosen = [name.replace("_", "-") for name in NAMES if name in values and values[name] is not False]
    asked = [f"--{name}" for name in chosen]
    if "method" in settings and settings["method"] not in chosen:
        asked.append(f"--method {settings['method']}")
    if len(asked) > 1:
        raise UsageError(
            f"one method at a time, not {' and '.join(asked)}",
            "several are separated by commas: --method lora,full",
        )
    if chosen:
        settings["method"] = chosen[0]
    if (rank := values.get("lora")) is None:
        return settings
    if settings.get("rank", rank) != rank:
        raise UsageError(f"--lora {rank} and --rank {settings['rank']} contradict each other")
    return settings | {"rank": rank}


def short_form(method: Method) -> str:
    """Return the options that choose a method and its rank, in their shortest form."""
    rank = getattr(method, "rank", None)
    if method.name == "lora":
        return f"--lora {rank}"
    if method.name.replace("-", "_") in NAMES:
        return f"--{method.name}"
    return f"--method {method.name}" + ("" if rank is None else f" --rank {rank}")
