"""The options that several commands share, each declared once.

Where `run_config` has the default, an option's value is None when it was not given, so that
option > config file > task default > field default holds; `_parsing.given` makes `resolve`'s options of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from explora import console
from explora.core.config.registry import MODELS, TASKS
from explora.core.config.run_config import EncodingConfig, RuntimeConfig, TrainingConfig
from explora.errors import UsageError, did_you_mean


def check_task(task: str) -> str:
    """Return `task`, or raise UsageError for a name that the registry does not have."""
    if task in TASKS:
        return task
    raise UsageError(f"no task {task!r}{did_you_mean(task, TASKS)}", f"tasks: {', '.join(TASKS)}")


def _complete(known: tuple[str, ...]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [name for name in known if name.startswith(incomplete)]

    return complete


def _hush(quiet: bool) -> bool:
    """Make --quiet work in every command that declares it."""
    console.set_quiet(quiet)
    return quiet


# One panel of --help each.
_model = partial(typer.Option, rich_help_panel="Model")
_method = partial(typer.Option, rich_help_panel="Method")
_data = partial(typer.Option, rich_help_panel="Data")
_optimizer = partial(typer.Option, rich_help_panel="Optimizer")
_training = partial(typer.Option, rich_help_panel="Training")
_machine = partial(typer.Option, rich_help_panel="Machine")
_output = partial(typer.Option, rich_help_panel="Output")

Task = Annotated[
    str,
    typer.Argument(
        metavar="TASK",
        callback=check_task,
        autocompletion=_complete(tuple(TASKS)),
        help=f"What is learned: {', '.join(TASKS)}.",
    ),
]

Run = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN",
        show_default=False,
        help="A run folder, a PEFT adapter or a model folder. Default: runs/TASK, or else the base.",
    ),
]

Model = Annotated[
    str | None,
    _model(
        "--model",
        metavar="NAME|FOLDER",
        autocompletion=_complete(tuple(MODELS)),
        help=f"The base: {', '.join(MODELS)}, a hub id, a local Hugging Face folder, or random:NAME "
        "(random weights, for timing only). Default: the small base inside the package.",
    ),
]
Tokenizer = Annotated[
    str | None,
    _model(
        "--tokenizer",
        metavar="FOLDER",
        help="tokenizer.json, or vocab.json and merges.txt, for the base's own.",
    ),
]

Data = Annotated[
    str | None,
    _data(
        "--data",
        metavar="FILE|FOLDER|NAME",
        help="CSV, TSV, JSONL or CS224N's own; a folder with train, dev and test files. "
        "Default: the package's sample data.",
    ),
]
Columns = Annotated[
    str | None,
    _data("--columns", metavar="OURS=THEIRS,...", help="The file's own column names, such as label=is_dup."),
]
Format = Annotated[
    str | None,
    _data("--format", metavar="auto|msr", help="msr: MSR's unquoted paraphrase file (default: auto)."),
]
SkipBad = Annotated[
    bool | None,
    _data("--skip-bad/--no-skip-bad", metavar="", help="Count bad rows instead of stopping at the first."),
]
Template = Annotated[
    str | None,
    _data(
        "--template",
        metavar="TEXT",
        help="The cloze of paraphrase, with {sentence1} and {sentence2}; kept with the adapter.",
    ),
]
LabelWords = Annotated[
    str | None,
    _data("--label-words", metavar="YES,NO", help="The answers (default yes,no); kept with the adapter."),
]
MaxLength = Annotated[
    int | None,
    _data("--max-length", metavar="N", help=f"Tokens. Default: by task, else {EncodingConfig.max_length}."),
]

BatchSize = Annotated[
    int | None, _training("--batch-size", help=f"Default: by task, else {TrainingConfig.batch_size}.")
]
Device = Annotated[
    str | None,
    _machine(
        "--device",
        metavar="auto|cpu|cuda|mps",
        help=f"{RuntimeConfig.device} (the default): the fastest there is.",
    ),
]
Amp = Annotated[
    str | None,
    _machine("--amp", metavar="auto|off|bf16|fp16", help="Mixed precision (default: off)."),
]
Threads = Annotated[
    int | None, _machine("--threads", metavar="N", help="Default: what is fastest here, or OMP_NUM_THREADS.")
]
Output = Annotated[Path | None, _output("--output", "-o", metavar="FOLDER", help="Where the result goes.")]
Overwrite = Annotated[bool, _output("--overwrite", metavar="", help="Remove what the folder holds first.")]
Resume = Annotated[bool, _output("--resume", metavar="", help="Go on where the run in the folder stopped.")]
Config = Annotated[
    Path | None,
    _output("--config", "-c", metavar="run.json", help="Repeat a recorded run bit for bit; options win."),
]
DryRun = Annotated[
    bool, _output("--dry-run", metavar="", help="Show the resolved configuration and counts, and stop.")
]
Json = Annotated[bool, _output("--json", metavar="", help="The result as JSON on stdout.")]
Quiet = Annotated[bool, _output("--quiet", "-q", metavar="", callback=_hush, help="No progress on stderr.")]
