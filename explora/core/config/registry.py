"""Registry of models, methods and tasks by name. Implementations are strings, so that importing it is fast.

To add a task, a method or a model size, add a row here and the file that the row names.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explora.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from explora.core.config.method import Method


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The shape of a GPT-2: everything that determines its parameter count (Hugging Face's field names)."""

    n_layer: int
    n_head: int
    n_embd: int
    n_positions: int = 1024
    vocab_size: int = 50257


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """A model with a short name: its id on the Hugging Face hub and its shape."""

    hub_id: str
    shape: Shape


EMBEDDED = "embedded"

MODELS: dict[str, ModelRow] = {
    "gpt2": ModelRow(hub_id="openai-community/gpt2", shape=Shape(n_layer=12, n_head=12, n_embd=768)),
    "gpt2-medium": ModelRow(
        hub_id="openai-community/gpt2-medium", shape=Shape(n_layer=24, n_head=16, n_embd=1024)
    ),
    "gpt2-large": ModelRow(
        hub_id="openai-community/gpt2-large", shape=Shape(n_layer=36, n_head=20, n_embd=1280)
    ),
    "gpt2-xl": ModelRow(hub_id="openai-community/gpt2-xl", shape=Shape(n_layer=48, n_head=25, n_embd=1600)),
    "distilgpt2": ModelRow(hub_id="distilbert/distilgpt2", shape=Shape(n_layer=6, n_head=12, n_embd=768)),
}


DEFAULT_METHOD = "lora"
FULL_METHOD = "full"  # adapters are compared with it, and plain models open as its results

METHODS: dict[str, str] = {
    "lora": "explora.core.methods.lora:LoRA",
    "full": "explora.core.methods.full:Full",
    "last-linear": "explora.core.methods.last_linear:LastLinear",
    "ia3": "explora.core.methods.ia3:IA3",
    "rslora": "explora.core.methods.rslora:RSLoRA",
    "lora-plus": "explora.core.methods.lora_plus:LoRAPlus",
    "dora": "explora.core.methods.dora:DoRA",
    "bitfit": "explora.core.methods.bitfit:BitFit",
    "miss": "explora.core.methods.miss:MiSS",
    "top": "explora.core.methods.top:Top",
}


def method_class(name: str) -> type[Method]:
    """Return the class of a method; see `config.method`. Raises UsageError for an unknown name."""
    if name not in METHODS:
        known = ", ".join(METHODS)
        nearest = did_you_mean(name.replace("+", "-plus"), METHODS)  # the paper writes LoRA+
        raise UsageError(f"method {name!r} is not one of {known}{nearest}")
    found: type[Method] = load_implementation(METHODS[name])
    return found


# Readers of files: functions `(source, row, config)` that yield parsed lines.
ROWS = "explora.core.data.readers:read_rows"
POEMS = "explora.core.data.readers:read_poems"
DOCUMENTS = "explora.core.data.readers:read_documents"


@dataclass(frozen=True, kw_only=True)
class TaskRow:
    """Description of a task: the contents of its files, its kind of answer, and its default settings.

    Files: `columns` are the required columns, `label` is the column of the label, `aliases` are other names
    of both. `reader` is the function that reads a file. `split_files` names, by split and in order of
    preference, the files of a folder that has one of the train files; other folders are searched for the name
    of the split. `samples` is the folder of the sample data (default: the one inside the package). `stream`
    means that the files are plain text, joined into one stream of tokens and cut into rows. The rows are
    memory-mapped, evaluation uses the longest rows that the model reads, and a base can be trained from
    scratch.

    Answers: `classes` is the number of classes (a default if the data decides), None for language modelling.
    `own_head` means that a classification head answers, whatever the method; otherwise the tied head does.
    `sampling` holds defaults of `generate`, by option (1 for the others). `floor_needs_train` means that some
    trivial answers are scored from training rows. `lines` is the number of lines of a whole text, None for
    any number.

    Settings: `defaults` are values of settings, by name; a method has its own. `no_head` is the reason why a
    method that trains only a linear head makes no sense for this task, or empty if it does. `course_ids` are
    the labels as CS224N's code writes them, if these are token ids.
    """

    summary: str
    implementation: str
    columns: tuple[str, ...]
    label: str | None = None
    aliases: dict[str, str] = field(default_factory=dict)
    reader: str = ROWS
    split_files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    samples: Path | None = None
    stream: bool = False
    classes: int | None = None
    own_head: bool = False
    sampling: Mapping[str, Any] = field(default_factory=dict)
    floor_needs_train: bool = False
    lines: int | None = None
    defaults: dict[str, Any] = field(default_factory=dict)
    no_head: str = ""
    course_ids: Mapping[str, str] = field(default_factory=dict)

    def refuses(self, method: type[Method]) -> str:
        """Return why the task cannot be trained by a method; empty if it can."""
        return self.no_head if method.needs_head else ""

    @property
    def one_position(self) -> bool:
        """Whether the answer to a row is read at one position, rather than at every token."""
        return self.classes is not None

    def head_classes(self, needs_head: bool, classes: int | None = None) -> int:
        """Return the number of classes of the linear head that a method trains, 0 for no head.

        `needs_head` is that of the method. `classes` is the number of classes in the data, or None if
        unknown.
        """
        if self.classes is None or not (self.own_head or needs_head):
            return 0
        return classes or self.classes


SONNET_LINES = 14
PARAPHRASE_TEMPLATE = 'Is "{sentence1}" a paraphrase of "{sentence2}"? Answer "yes" or "no": '

TASKS: dict[str, TaskRow] = {
    "paraphrase": TaskRow(
        summary="do two sentences mean the same? (cloze: the model answers yes or no)",
        implementation="explora.core.tasks.paraphrase:Paraphrase",
        columns=("sentence1", "sentence2"),
        label="label",
        aliases={"is_duplicate": "label", "Quality": "label", "#1 String": "sentence1"}
        | {"#2 String": "sentence2", "question1": "sentence1", "question2": "sentence2"},
        classes=2,
        course_ids={"1": "8505", "0": "3919"},  # GPT-2's tokens for yes and no
        defaults={
            "template": PARAPHRASE_TEMPLATE,
            "label_words": ("yes", "no"),
            "epochs": 3,
            "batch_size": 16,
            "max_length": 256,
        },
    ),
    "sentiment": TaskRow(
        summary="which of several classes does a text belong to? (a linear head on the last token)",
        implementation="explora.core.tasks.sentiment:Sentiment",
        columns=("sentence",),
        label="label",
        aliases={"sentiment": "label", "text": "sentence"},
        classes=5,  # as the Stanford Sentiment Treebank
        own_head=True,
        defaults={
            "epochs": 3,
            "batch_size": 16,
            "max_length": 512,
        },
    ),
    "sonnet": TaskRow(
        summary="continue a poem from its first lines",
        implementation="explora.core.tasks.sonnet:Sonnet",
        columns=("text",),
        reader=POEMS,
        split_files={  # CS224N's: whole poems come before files with only the first lines of the same poems
            "train": ("sonnets.txt",),
            "dev": ("TRUE_sonnets_held_out_dev.txt",),
            "test": ("TRUE_sonnets_held_out.txt", "sonnets_held_out.txt"),
        },
        # chosen for metre, without repeated lines: benchmarks/results/decoding-2026-11-26.md
        sampling={"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.2},
        floor_needs_train=True,
        lines=SONNET_LINES,
        defaults={
            "epochs": 10,
            "batch_size": 8,
            "max_length": 512,
        },
        no_head="a sonnet is written by the tied language-model head; "
        "a new linear head over the whole vocabulary would have to learn every word from the start",
    ),
    "text": TaskRow(
        summary="language modelling on plain text: adapt a base to your text, or train a new base",
        implementation="explora.core.tasks.text:Text",
        columns=("text",),
        reader=DOCUMENTS,
        stream=True,
        floor_needs_train=True,
        defaults={
            "epochs": 3,
            "batch_size": 8,
            "max_length": 512,
        },
        no_head="language modelling uses the tied head, not a new one",
    ),
}

# target -> (module of a block, part of the fused c_attn or None for the whole module)
TARGETS: dict[str, tuple[str, int | None]] = {
    "query": ("attn.c_attn", 0),
    "key": ("attn.c_attn", 1),
    "value": ("attn.c_attn", 2),
    "c_attn": ("attn.c_attn", None),
    "attn-out": ("attn.c_proj", None),
    "mlp-up": ("mlp.c_fc", None),
    "mlp-down": ("mlp.c_proj", None),
}


def task_row(name: str) -> TaskRow:
    """Return the row of a task. Raises UsageError for a name that is not registered."""
    if name in TASKS:
        return TASKS[name]
    raise UsageError(f"no task {name!r}{did_you_mean(name, TASKS)}", f"tasks: {', '.join(TASKS)}")


def load_implementation(reference: str) -> Any:
    """Import `package.module` or `package.module:name` and return it."""
    module, _, name = reference.partition(":")
    loaded = importlib.import_module(module)
    return getattr(loaded, name) if name else loaded
