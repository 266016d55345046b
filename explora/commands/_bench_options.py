"""Declare and parse the options that only `explora bench` has: compared methods, settings and trainings."""

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
        help=f"Methods to compare: {', '.join(METHODS)}. A method with a rank is measured at each of --ranks "
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
        help="Measure transformers + peft on the same rows too. Needs the extra explora[peer].",
    ),
]
BatchSizes = Annotated[
    str | None,
    typer.Option(
        "--batch-sizes",
        "--batch-size",
        metavar="N,...",
        rich_help_panel="Compared settings",
        help="Batch sizes at which every method is measured (default: that of the task).",
    ),
]
Lengths = Annotated[
    str | None,
    typer.Option(
        "--lengths",
        "--length",
        metavar="TOKENS,...",
        rich_help_panel="Compared settings",
        help="Lengths to which every row is padded or cut (default: the rows as they are).",
    ),
]
Amps = Annotated[
    str | None,
    typer.Option(
        "--amp",
        metavar="|".join(AMPS) + ",...",
        rich_help_panel="Compared settings",
        help="Precisions. auto: bf16 if it is faster here, else fp32 (default: auto).",
    ),
]
GradCheckpoints = Annotated[
    str | None,
    typer.Option(
        "--grad-checkpoint",
        metavar="on|off|on,off",
        rich_help_panel="Compared settings",
        help="Gradient checkpointing: recompute activations instead of storing them (default: off).",
    ),
]
Check = Annotated[
    bool,
    typer.Option(
        "--check",
        metavar="",
        rich_help_panel="Method",
        help="Only check that all methods compute what they should on this machine.",
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
        help="Train each method longer too, and compare dev scores after equal steps and after equal time.",
    ),
]
QualitySteps = Annotated[
    int | None,
    typer.Option(
        "--quality-steps",
        metavar="N",
        min=1,
        rich_help_panel="Training",
        help="Optimizer steps of each training of --quality "
        f"(default: as many as fit into {LEARNING_SECONDS / 60:.0f} minutes in total).",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps",
        metavar="N",
        min=1,
        rich_help_panel="Training",
        help="Timed steps of each measurement, after two of warm-up "
        "(default: as many as fit into 3 minutes in total).",
    ),
]
Repeats = Annotated[
    int,
    typer.Option(
        "--repeats",
        metavar="N",
        min=1,
        rich_help_panel="Training",
        show_default=False,
        help=f"Measurements of each method (default: {REPEATS}).",
    ),
]


def parse_methods(text: str) -> list[str]:
    """Parse `full,last_linear` to ["full", "last-linear"]. Raises UsageError."""
    names = [name.replace("_", "-") for name in _words("--methods", text)]
    return _of_choices("--methods", names, tuple(METHODS), METHODS_COMPARED)


def parse_numbers(option: str, text: str, example: str, least: int = 1) -> list[int]:
    """Parse `4,8,16` to [4, 8, 16]. Raises UsageError."""
    words = _words(option, text)
    for word in words:
        if not word.isdecimal() or int(word) < least:
            wanted = "a positive whole number" if least == 1 else f"a whole number from {least} on"
            raise UsageError(f"{option}: {word!r} is not {wanted}", f"{option} {example}")
    return [int(word) for word in words]


def parse_amps(text: str) -> list[str]:
    """Parse `off,bf16` to ["off", "bf16"]; `auto` cannot be combined. Raises UsageError."""
    names = _of_choices("--amp", _words("--amp", text), AMPS, "off,bf16")
    if "auto" in names and len(names) > 1:
        raise UsageError("--amp auto cannot be combined with another precision", "--amp off,bf16")
    return names


def parse_switch(option: str, text: str) -> list[bool]:
    """Parse `on,off` to [True, False]. Raises UsageError."""
    return [SWITCH[word] for word in _of_choices(option, _words(option, text), tuple(SWITCH), "on,off")]


def _words(option: str, text: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or len(set(words)) != len(words):
        raise UsageError(f"{option} needs at least one value, and none twice")
    return words


def _of_choices(option: str, words: list[str], choices: tuple[str, ...], example: str) -> list[str]:
    for word in words:
        if word not in choices:
            raise UsageError(
                f"{option}: {word!r} is not one of {', '.join(choices)}{did_you_mean(word, choices)}",
                f"{option} {example}",
            )
    return words
