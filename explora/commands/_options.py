"""The options that several commands share, each declared once.

Where `run_config` has the default, an option's value is None when it was not given, so that
option > config file > task default > field default holds; `_parsing.given` makes `resolve`'s options of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from explora import console
from explora.core.config.registry import MODELS, TARGETS, TASKS
from explora.core.config.run_config import (
    CHOICES,
    EncodingConfig,
    MethodConfig,
    OptimizerConfig,
    RuntimeConfig,
    TrainingConfig,
)
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


def _choice(panel: Callable[..., Any], option: str, name: str, about: str) -> Any:
    """An option of `panel` whose value is one of CHOICES[name], which the configuration checks."""
    choices = CHOICES[name]
    return panel(option, metavar="|".join(choices), autocompletion=_complete(choices), help=about)


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

LoraRank = Annotated[
    int | None,
    _method(
        "--lora",
        metavar="R",
        help=f"Train low-rank adapters of rank R; the default method, with R {MethodConfig.rank}.",
    ),
]
Full = Annotated[bool, _method("--full", metavar="", help="Train every weight.")]
LastLinear = Annotated[bool, _method("--last-linear", metavar="", help="Train only a fresh linear head.")]
Alpha = Annotated[
    float | None, _method("--alpha", help="LoRA's scale is alpha / R. Default: 2 R, a scale of 2.")
]
LoraDropout = Annotated[
    float | None,
    _method(
        "--lora-dropout", metavar="P", help=f"On the adapters' input (default {MethodConfig.lora_dropout:g})."
    ),
]
Targets = Annotated[
    str | None,
    _method(
        "--targets",
        metavar="NAME,...",
        help=f"Where adapters sit: {', '.join(TARGETS)}; c_attn is one adapter on query, key and value. "
        "Default: by task.",
    ),
]
Layers = Annotated[
    str | None,
    _method(
        "--layers",
        metavar="A-B",
        help="Only these blocks get adapters: 6-11 (from 0, both ends included) or one number. Default: all.",
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
Dev = Annotated[
    str | None, _data("--dev", metavar="FILE", help="Rows for dev scores. Default: 10 % of --data.")
]
Columns = Annotated[
    str | None,
    _data("--columns", metavar="OURS=THEIRS,...", help="The file's own column names, such as label=is_dup."),
]
Format = Annotated[
    str | None,
    _choice(_data, "--format", "format", "msr: MSR's unquoted paraphrase file (default auto)."),
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

LearningRate = Annotated[
    float | None, _optimizer("--learning-rate", metavar="LR", help="The peak. Default: by task and method.")
]
Optimizer = Annotated[
    str | None, _choice(_optimizer, "--optimizer", "optimizer", f"Default {OptimizerConfig.optimizer}.")
]
WeightDecay = Annotated[
    float | None,
    _optimizer(
        "--weight-decay",
        help=f"On the base's matrices, never on adapters (default {OptimizerConfig.weight_decay:g}).",
    ),
]
Beta1 = Annotated[float | None, _optimizer("--beta1", help=f"Adam's (default {OptimizerConfig.beta1:g}).")]
Beta2 = Annotated[float | None, _optimizer("--beta2", help=f"Adam's (default {OptimizerConfig.beta2:g}).")]
Clip = Annotated[
    float | None,
    _optimizer(
        "--clip", metavar="NORM", help=f"Largest gradient norm; 0: any (default {OptimizerConfig.clip:g})."
    ),
]
Warmup = Annotated[
    float | None,
    _optimizer(
        "--warmup", metavar="SHARE", help=f"Of all steps, for the rise (default {OptimizerConfig.warmup:g})."
    ),
]
Schedule = Annotated[
    str | None,
    _choice(_optimizer, "--schedule", "schedule", f"How it falls (default {OptimizerConfig.schedule})."),
]

Epochs = Annotated[int | None, _training("--epochs", help=f"Default: by task, else {TrainingConfig.epochs}.")]
MaxSteps = Annotated[int | None, _training("--max-steps", metavar="N", help="Stop after N optimizer steps.")]
MaxMinutes = Annotated[
    float | None,
    _training(
        "--max-minutes",
        metavar="M",
        help="Take as many steps as fit into M minutes here, evaluation included.",
    ),
]
BatchSize = Annotated[
    int | None, _training("--batch-size", help=f"Default: by task, else {TrainingConfig.batch_size}.")
]
Accumulate = Annotated[
    int | None,
    _training("--accumulate", metavar="K", help=f"Batches to a step (default {TrainingConfig.accumulate})."),
]
Dropout = Annotated[
    float | None,
    _training(
        "--dropout", metavar="P", help=f"In the base while training (default {TrainingConfig.dropout:g})."
    ),
]
Seed = Annotated[
    int | None,
    _training("--seed", help=f"The same seed gives the same bits (default {TrainingConfig.seed})."),
]
EvalEvery = Annotated[
    int | None, _training("--eval-every", metavar="N", help="Dev score every N steps. Default: each epoch.")
]
SaveEvery = Annotated[
    int | None, _training("--save-every", metavar="N", help="Save every N steps. Default: each epoch.")
]
Patience = Annotated[
    int | None,
    _training("--patience", metavar="N", help="Stop after N dev scores without a new best. Default: never."),
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
    _choice(
        _machine,
        "--amp",
        "amp",
        "Half precision. auto: bf16 where a probe finds it faster; train's default. Others compute in fp32.",
    ),
]
GradCheckpoint = Annotated[
    bool | None,
    _machine(
        "--grad-checkpoint/--no-grad-checkpoint",
        metavar="",
        help="Compute activations again instead of keeping them: less memory, more time, the same result.",
    ),
]
FeatureCache = Annotated[
    str | None,
    _machine(
        "--feature-cache",
        metavar="SIZE|off",
        help="Disk for the output of frozen blocks, computed once where only what is above them trains "
        f"(default {RuntimeConfig.feature_cache // 10**9}GB).",
    ),
]
Threads = Annotated[
    int | None, _machine("--threads", metavar="N", help="Default: what is fastest here, or OMP_NUM_THREADS.")
]
PlainAttention = Annotated[
    int | None,
    _machine(
        "--plain-attention",
        metavar="TOKENS",
        help="Up to so many tokens a row attention is plain products, beyond it torch's fused kernel "
        "(default: what is faster here).",
    ),
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
