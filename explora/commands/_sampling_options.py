"""Declare the options that only `explora generate` has: where prompts come from, and how to sample."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from explora.core.config.registry import TASKS

MAX_NEW_TOKENS = 256


def _default(option: str) -> str:
    """Return the default of a sampling option as help shows it: `0.9 for sonnet, else 1`."""
    special = [f"{row.sampling[option]} for {name}" for name, row in TASKS.items() if option in row.sampling]
    return ", ".join([*special, "else 1"])


_prompts_option = partial(typer.Option, rich_help_panel="Prompts")
_sampling = partial(typer.Option, rich_help_panel="Sampling", show_default=False)

PromptText = Annotated[
    str | None,
    _prompts_option(
        "--prompt",
        metavar="TEXT|-",
        help="Text to continue. With `-`, read one prompt per line of standard input, or JSON lines with "
        "`prompt` (default: none; give this or --data).",
    ),
]
Poems = Annotated[
    str | None,
    _prompts_option(
        "--data",
        metavar="FILE",
        help="File of poems; the first lines of each are its prompt (default: none; give this or --prompt).",
    ),
]
Temperature = Annotated[
    float | None,
    _sampling("--temperature", "-t", help=f"Sampling temperature (default: {_default('temperature')})."),
]
TopK = Annotated[
    int | None, _sampling("--top-k", metavar="K", help="Sample from the K most likely tokens (default: all).")
]
TopP = Annotated[
    float | None,
    _sampling(
        "--top-p",
        metavar="P",
        help="Top-p (nucleus) sampling: sample from the most likely tokens with total probability P "
        f"(default: {_default('top_p')}).",
    ),
]
RepetitionPenalty = Annotated[
    float | None,
    _sampling(
        "--repetition-penalty",
        help="Values above 1 make tokens that already occurred less likely "
        f"(default: {_default('repetition_penalty')}).",
    ),
]
Greedy = Annotated[bool, _sampling("--greedy", metavar="", help="Always take the most likely token.")]
MaxNewTokens = Annotated[
    int,
    _sampling(
        "--max-new-tokens",
        metavar="N",
        min=1,
        help=f"Largest number of tokens per continuation (default: {MAX_NEW_TOKENS}).",
    ),
]
Num = Annotated[
    int, _sampling("--num", "-n", metavar="N", min=1, help="Continuations per prompt (default: 1).")
]
