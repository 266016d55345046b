"""The options that `explora bench` alone has: what is compared, at which settings; and their parsing."""

from __future__ import annotations

from typing import Annotated

import typer

from explora.commands._settings import SETTINGS
from explora.core.bench.plan import LEARNING_SECONDS
from explora.core.config.registry import METHODS
from explora.errors import UsageError, did_you_mean

AMPS = SETTINGS["amp"][0].about.choices
METHODS_COMPARED = "full,last-linear,lora"
RANKS_COMPARED = "4,8,16"
REPEATS = 3
SWITCH = {"on": True, "off": False}

Methods = Annotated[
    str | None,
    typer.Option(
        "--methods",
        metavar="NAME,...",
        rich_help_panel="Method",
        help=f"What is compared, of {', '.join(METHODS)}; those with a rank once for each of --ranks "
        f"(default: {METHODS_COMPARED}; with --check: all).",
    ),
]
Ranks = Annotated[
    str | None,
    typer.Option(
        "--ranks",
        metavar="R,...",
        rich_help_panel="Method",
        help=f"Ranks of the methods that have one (default: {RANKS_COMPARED}).",
    ),
]
Peer = Annotated[
    bool,
    typer.Option(
        "--peer",
        metavar="",
        rich_help_panel="Method",
        help="Add transformers + peft on the same rows (needs the extra explora[peer]).",
    ),
]
BatchSizes = Annotated[
    str | None,
    typer.Option(
        "--batch-sizes",
        "--batch-size",
        metavar="N,...",
        rich_help_panel="Matrix",
        help="Every contender at each of these. Default: the task's.",
    ),
]
Lengths = Annotated[
    str | None,
    typer.Option(
        "--lengths",
        "--length",
        metavar="TOKENS,...",
        rich_help_panel="Matrix",
        help="Fill or cut every row to each of these, to see what it costs. Default: the rows as they are.",
    ),
]
Amps = Annotated[
    str | None,
    typer.Option(
        "--amp",
        metavar="|".join(AMPS) + ",...",
        rich_help_panel="Matrix",
        help="Precisions. Default auto: bf16 where a probe finds it faster.",
    ),
]
GradCheckpoints = Annotated[
    str | None,
    typer.Option(
        "--grad-checkpoint",
        metavar="on|off|on,off",
        rich_help_panel="Matrix",
        help="Compute activations again instead of keeping them. Default off.",
    ),
]
Check = Annotated[
    bool,
    typer.Option(
        "--check",
        metavar="",
        rich_help_panel="Method",
        help="Measure nothing: check that all methods compute what they should on this machine.",
    ),
]
Advise = Annotated[
    bool,
    typer.Option(
        "--advise",
        metavar="",
        rich_help_panel="Advice",
        help="Advise a method and a learning rate, from the rows of a study and a few timed steps.",
    ),
]
Ram = Annotated[
    str | None,
    typer.Option(
        "--ram",
        metavar="SIZE",
        rich_help_panel="Advice",
        help="Memory that the training may take, such as 4GB (default: what is free now).",
    ),
]
Minutes = Annotated[
    float | None,
    typer.Option(
        "--minutes",
        metavar="N",
        min=0.1,
        rich_help_panel="Advice",
        help="Minutes that the training may take (default: no limit).",
    ),
]
Examples = Annotated[
    int | None,
    typer.Option(
        "--examples",
        metavar="N",
        min=1,
        rich_help_panel="Advice",
        help="Number of training rows that you will have (default: the rows of the data).",
    ),
]
Quality = Annotated[
    bool,
    typer.Option(
        "--quality",
        metavar="",
        rich_help_panel="Training",
        help="Also train each contender on the rows as they are: scores after equal steps, after equal time.",
    ),
]
QualitySteps = Annotated[
    int | None,
    typer.Option(
        "--quality-steps",
        metavar="N",
        min=1,
        rich_help_panel="Training",
        help=f"Steps of each such training. Default: as fit into {LEARNING_SECONDS / 60:.0f} minutes in all.",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps",
        metavar="N",
        min=1,
        rich_help_panel="Training",
        help="Timed steps of each cell, after two of warm-up. Default: by time, under 3 minutes in all.",
    ),
]
Repeats = Annotated[
    int,
    typer.Option(
        "--repeats", metavar="N", min=1, rich_help_panel="Training", help="How often each contender runs."
    ),
]


def parse_methods(text: str) -> list[str]:
    """`full,last_linear` -> ["full", "last-linear"]. Raises UsageError."""
    names = [name.replace("_", "-") for name in _words("--methods", text)]
    return _of_choices("--methods", names, tuple(METHODS), METHODS_COMPARED)


def parse_numbers(option: str, text: str, example: str, least: int = 1) -> list[int]:
    """`4,8,16` -> [4, 8, 16]. Raises UsageError."""
    words = _words(option, text)
    for word in words:
        if not word.isdecimal() or int(word) < least:
            wanted = "a positive whole number" if least == 1 else f"a whole number from {least} on"
            raise UsageError(f"{option}: {word!r} is not {wanted}", f"{option} {example}")
    return [int(word) for word in words]


def parse_amps(text: str) -> list[str]:
    """`off,bf16` -> ["off", "bf16"]; `auto` stands alone. Raises UsageError."""
    names = _of_choices("--amp", _words("--amp", text), AMPS, "off,bf16")
    if "auto" in names and len(names) > 1:
        raise UsageError("--amp auto is one of the others, so it stands alone", "--amp off,bf16")
    return names


def parse_switch(option: str, text: str) -> list[bool]:
    """`on,off` -> [True, False]. Raises UsageError."""
    return [SWITCH[word] for word in _of_choices(option, _words(option, text), tuple(SWITCH), "on,off")]


def _words(option: str, text: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or len(set(words)) != len(words):
        raise UsageError(f"{option} names at least one, and none twice")
    return words


def _of_choices(option: str, words: list[str], choices: tuple[str, ...], example: str) -> list[str]:
    for word in words:
        if word not in choices:
            raise UsageError(
                f"{option}: {word!r} is not one of {', '.join(choices)}{did_you_mean(word, choices)}",
                f"{option} {example}",
            )
    return words
