"""What a run is: one frozen dataclass per concern, their sum `TrainRun`, an exact JSON round trip.

Setting names are unique across the concerns, so an option, a key of a config file and a task default all name
a setting by its own name alone. `precedence` decides which of them counts, `validation` what is allowed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from explora.core.config import values
from explora.core.config.method import Method
from explora.core.config.plain_json import from_plain, to_plain
from explora.core.config.registry import DEFAULT_METHOD, EMBEDDED, METHODS, Shape, method_class
from explora.core.config.setting import (
    FRACTION,
    POSITIVE,
    Range,
    Setting,
    at_least,
    setting,
    settings_of_class,
)
from explora.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the rows come from. `data` is a file, a folder, a known name, or None for the samples."""

    data: str | None = setting(
        None,
        "CSV, TSV, JSONL or CS224N file, a folder with train, dev and test files, or a known data set.",
        metavar="FILE|FOLDER|NAME",
        default="the package's sample data",
    )
    dev: str | None = setting(
        None, "File with the rows for dev scores.", metavar="FILE", default="10 % of --data"
    )
    columns: Mapping[str, str] = setting(
        {},
        "The file's own column names, such as label=is_dup.",
        metavar="OURS=THEIRS,...",
        default="the task's names",
        parse=values.parse_columns,
    )
    format: str = setting(
        "auto", "File format. msr: the unquoted file of MSR's paraphrase corpus.", choices=("auto", "msr")
    )
    skip_bad: bool = setting(False, "Skip and count bad rows instead of stopping at the first.")


@dataclass(frozen=True, kw_only=True)
class EncodingConfig:
    """How a row becomes token ids; stored with the adapter and enforced when it is used."""

    template: str | None = setting(
        None,
        "Cloze prompt with {sentence1} and {sentence2}; stored with the adapter.",
        metavar="TEXT",
        default="by task",
    )
    label_words: tuple[str, str] | None = setting(
        None,
        "The two answers of the cloze; stored with the adapter.",
        metavar="YES,NO",
        default="yes,no",
        parse=values.parse_label_words,
    )
    max_length: int = setting(
        512, "Longest row in tokens.", metavar="N", default="by task, else 512", range=at_least(8)
    )


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer and its schedule. `warmup` is a fraction of all steps.

    `muon` orthogonalises the updates of the blocks' matrices (Jordan et al. 2024) and leaves the rest
    to AdamW.
    """

    optimizer: str = setting("adamw", "Optimizer.", choices=("adamw", "muon"))
    learning_rate: float = setting(
        1e-3, "Peak learning rate.", metavar="LR", default="by task, method and width", range=POSITIVE
    )
    weight_decay: float = setting(
        0.01, "Weight decay on the base's matrices; adapters have none.", range=at_least(0)
    )
    beta1: float = setting(0.9, "Adam's decay of the first moment.", range=FRACTION)
    beta2: float = setting(0.999, "Adam's decay of the second moment.", range=FRACTION)
    clip: float = setting(
        1.0, "Clip the gradient norm at NORM; 0: no clipping.", metavar="NORM", range=at_least(0)
    )
    warmup: float = setting(
        0.06, "Share of the steps used for learning-rate warm-up.", metavar="SHARE", range=FRACTION
    )
    schedule: str = setting(
        "linear", "Learning-rate decay after warm-up.", choices=("linear", "cosine", "constant")
    )


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long and in what portions. `eval_every` counts steps; None means once an epoch.

    With `max_minutes` and without `max_steps` as many steps are taken as fit into that time, and recorded.
    """

    epochs: int = setting(3, "Passes over the training set.", default="by task, else 3", range=at_least(1))
    max_steps: int | None = setting(
        None, "Stop after N optimizer steps.", metavar="N", default="no limit", range=at_least(1)
    )
    max_minutes: float | None = setting(
        None,
        "Take as many steps as fit into M minutes here, evaluation included.",
        metavar="M",
        default="no limit",
        range=POSITIVE,
    )
    batch_size: int = setting(16, "Rows per batch.", default="by task, else 16", range=at_least(1))
    accumulate: int = setting(1, "Batches per optimizer step.", metavar="K", range=at_least(1))
    dropout: float = setting(0.0, "Dropout in the base during training.", metavar="P", range=FRACTION)
    seed: int = setting(
        11711,
        "Random seed; the same seed gives the same result on the same machine.",
        range=Range(low=0, high=2**63, text="at least 0 and below 2^63"),
    )
    eval_every: int | None = setting(
        None, "Compute the dev score every N steps.", metavar="N", default="each epoch", range=at_least(1)
    )
    save_every: int | None = setting(
        None, "Save the resume state every N steps.", metavar="N", default="each epoch", range=at_least(1)
    )
    patience: int | None = setting(
        None,
        "Stop after N dev scores without an improvement.",
        metavar="N",
        default="never",
        range=at_least(1),
    )


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """What the machine contributes. `auto` and None are resolved once and recorded as resolved.

    `feature_cache` is how many bytes the features of frozen blocks may take on disk; `plain_attention` up to
    how many tokens attention is computed by unfused products on a CPU.
    """

    device: str = setting("auto", "Where to compute.", metavar="auto|cpu|cuda|mps")
    amp: str = setting(
        "auto",
        "Mixed precision. auto: bf16 in training where it is faster, else fp32.",
        choices=("auto", "off", "bf16", "fp16"),
    )
    grad_checkpoint: bool = setting(
        False, "Recompute activations instead of storing them: less memory, more time, the same result."
    )
    threads: int | None = setting(
        None,
        "CPU threads.",
        metavar="N",
        default="the fastest number here, or OMP_NUM_THREADS",
        range=at_least(1),
    )
    plain_attention: int | None = setting(
        None,
        "Use unfused attention for rows of up to TOKENS tokens, and torch's fused kernel for longer rows.",
        metavar="TOKENS",
        default="what is faster here",
        range=at_least(0),
    )
    feature_cache: int = setting(
        4_000_000_000,
        "Disk space for the output of frozen blocks, which is then computed once instead of in every epoch.",
        metavar="SIZE|off",
        range=at_least(0),
        parse=values.parse_size,
        show=values.show_size,
    )


def _default_method() -> Method:
    return method_class(DEFAULT_METHOD)()


@dataclass(frozen=True, kw_only=True)
class TrainRun:
    """One training run, complete: with the same data it gives the same bits."""

    task: str
    model: str = setting(
        EMBEDDED,
        "The base: a name, a hub id, a local Hugging Face folder, or random:NAME (for timing only).",
        metavar="NAME|FOLDER",
        default="the small base in the package",
    )
    tokenizer: str | None = setting(
        None,
        "Folder with tokenizer.json, or with vocab.json and merges.txt.",
        metavar="FOLDER",
        default="the base's own",
    )
    from_scratch: Shape | None = setting(
        None,
        "Train a new base on plain text: layers=6,heads=4,width=256,context=512,vocabulary=8192.",
        metavar="SHAPE",
        default="start from --model",
        parse=values.parse_shape,
        show=values.show_shape,
    )
    method: Method = field(default_factory=_default_method)
    data: DataConfig = field(default_factory=DataConfig)
    encoding: EncodingConfig = EncodingConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    def to_json(self) -> dict[str, Any]:
        """Return plain lists, dicts, numbers, strings."""
        plain: dict[str, Any] = to_plain(self)
        plain["method"] = method_to_json(self.method)
        return plain

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TrainRun:
        """The inverse of `to_json`; a key that no field has raises UsageError."""
        if not isinstance(value, Mapping):
            raise UsageError(f"run should be an object, not {value!r}")
        method = _method_from_json(value.get("method", {}))
        rest = {key: item for key, item in value.items() if key != "method"}
        run: TrainRun = from_plain(cls, rest, "run")
        return dataclasses.replace(run, method=method)


def method_to_json(method: Method) -> dict[str, Any]:
    """Return the name of a method and its settings."""
    return {"method": method.name, **to_plain(method)}


# The settings of every run before format 2, whatever its method.
_FORMAT_1 = {"method", "rank", "alpha", "lora_dropout", "targets", "layers"}


def _method_from_json(value: Any) -> Method:
    if not isinstance(value, Mapping):
        raise UsageError(f"run.method should be an object, not {value!r}")
    name = value.get("method", DEFAULT_METHOD)
    if not isinstance(name, str):
        raise UsageError(f"run.method.method should be of type str, not {name!r}")
    kind = method_class(name)
    own = {key: item for key, item in value.items() if key != "method"}
    if value.keys() == _FORMAT_1:
        own = {key: item for key, item in own.items() if key in field_names(kind)}
    method: Method = from_plain(kind, own, "run.method")
    return method


CONCERNS: dict[str, type[Any]] = {
    "data": DataConfig,
    "encoding": EncodingConfig,
    "optimizer": OptimizerConfig,
    "training": TrainingConfig,
    "runtime": RuntimeConfig,
}
WHOLE = ("model", "tokenizer", "from_scratch")  # settings that stand in TrainRun itself


def field_names(kind: type[Any]) -> list[str]:
    """Return the settings of a concern or a method."""
    return [item.name for item in dataclasses.fields(kind)]


def all_settings(method: type[Method]) -> dict[str, Setting]:
    """Return the settings of a run trained by a method, by name, without `method` itself."""
    kinds: tuple[type[Any], ...] = (TrainRun, method, *CONCERNS.values())
    return {item.name: item for kind in kinds for item in settings_of_class(kind)}


def method_settings() -> dict[str, Setting]:
    """Return the settings that any method has, by name; of two methods with the same the first counts."""
    found: dict[str, Setting] = {}
    for name in METHODS:
        for item in settings_of_class(method_class(name)):
            found.setdefault(item.name, item)
    return found


def methods_with(name: str) -> list[str]:
    """Return the names of the methods that have a setting."""
    return [method for method in METHODS if name in field_names(method_class(method))]


def foreign_settings(method: type[Method], names: Iterable[str]) -> Iterator[str]:
    """Yield which of these settings belong to other methods than this one."""
    known = method_settings().keys() - set(field_names(method))
    return (name for name in names if name in known)


def settings_of(run: TrainRun) -> dict[str, Any]:
    """Return every setting of a run by its name alone."""
    flat: dict[str, Any] = {name: getattr(run, name) for name in WHOLE}
    flat |= {"method": run.method.name}
    for part in (run.method, *(getattr(run, concern) for concern in CONCERNS)):
        flat |= {name: getattr(part, name) for name in field_names(type(part))}
    return flat


def settings_in(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return, by name alone, the settings that a run's JSON names; it may leave any out.

    Raises UsageError for a key that no field has and for a value of another type.
    """
    flat = settings_of(TrainRun.from_json(value))
    sections = {"method", *CONCERNS}
    named = {name for key, item in value.items() for name in (item if key in sections else (key,))}
    return {name: flat[name] for name in flat if name in named}
