"""What a run is: one frozen dataclass per concern, their sum `TrainRun`, an exact JSON round trip.

Field names are unique across the concerns, so an option, a key of a config file and a task default
all name a setting by its field name alone. `resolving` says which of them wins.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from typing import Any

from explora.core.config.registry import EMBEDDED, METHODS, TARGETS, Shape, task_row
from explora.errors import UsageError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """How the weights are trained; the fields after `method` belong to LoRA."""

    method: str = "lora"
    rank: int = 8
    alpha: float | None = None
    lora_dropout: float = 0.0
    targets: tuple[str, ...] = ("key", "value")
    layers: tuple[int, int] | None = None

    @property
    def scale(self) -> float:
        """The factor alpha / rank in front of B A (Hu et al. 2021, section 4.1)."""
        return (2 * self.rank if self.alpha is None else self.alpha) / self.rank


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the rows come from. `data` is a file, a folder, a known name, or None for the samples."""

    data: str | None = None
    dev: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    format: str = "auto"
    skip_bad: bool = False


@dataclass(frozen=True, kw_only=True)
class EncodingConfig:
    """How a row becomes token ids; stored with the adapter and enforced when it is used."""

    template: str | None = None
    label_words: tuple[str, str] | None = None
    max_length: int = 512


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer and its schedule. `warmup` is a fraction of all steps.

    `muon` orthogonalises the updates of the blocks' matrices (Jordan et al. 2024) and leaves the rest
    to AdamW.
    """

    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    clip: float = 1.0
    warmup: float = 0.06
    schedule: str = "linear"


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long and in what portions. `eval_every` counts steps; None means once an epoch.

    With `max_minutes` and without `max_steps` as many steps are taken as fit into that time, and recorded.
    """

    epochs: int = 3
    max_steps: int | None = None
    max_minutes: float | None = None
    batch_size: int = 16
    accumulate: int = 1
    dropout: float = 0.0
    seed: int = 11711
    eval_every: int | None = None
    save_every: int | None = None
    patience: int | None = None


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """What the machine contributes. `auto` and None are resolved once and recorded as resolved.

    `feature_cache` is how many bytes the features of frozen blocks may take on disk; `plain_attention` up to
    how many tokens attention is plain products on a CPU, and torch's fused kernel beyond.
    """

    device: str = "auto"
    amp: str = "auto"
    grad_checkpoint: bool = False
    threads: int | None = None
    plain_attention: int | None = None
    feature_cache: int = 4_000_000_000


@dataclass(frozen=True, kw_only=True)
class TrainRun:
    """One training run, complete: with the same data it gives the same bits."""

    task: str
    model: str = EMBEDDED
    tokenizer: str | None = None
    from_scratch: Shape | None = None
    method: MethodConfig = MethodConfig()
    data: DataConfig = field(default_factory=DataConfig)
    encoding: EncodingConfig = EncodingConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    def to_json(self) -> dict[str, Any]:
        """Return plain lists, dicts, numbers, strings."""
        plain = dataclasses.asdict(self)
        return typing.cast(dict[str, Any], _plain(plain))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TrainRun:
        """The inverse of `to_json`; a key that no field has raises UsageError."""
        return typing.cast(TrainRun, _from_plain(cls, value, "run"))


CONCERNS: dict[str, type[Any]] = {
    "method": MethodConfig,
    "data": DataConfig,
    "encoding": EncodingConfig,
    "optimizer": OptimizerConfig,
    "training": TrainingConfig,
    "runtime": RuntimeConfig,
}

SEEDS = 2**63  # what every generator takes

CHOICES: dict[str, tuple[str, ...]] = {
    "method": tuple(METHODS),
    "format": ("auto", "msr"),
    "optimizer": ("adamw", "muon"),
    "schedule": ("linear", "cosine", "constant"),
    "amp": ("auto", "off", "bf16", "fp16"),
}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


def _from_plain(kind: Any, value: Any, where: str) -> Any:
    """Build `kind` (a field's type) from plain JSON data."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, Mapping):
            raise UsageError(f"{where} should be an object, not {value!r}")
        hints = typing.get_type_hints(kind)
        refuse_unknown(value, hints, where)
        _require(value, kind, where)
        return kind(**{name: _from_plain(hints[name], v, f"{where}.{name}") for name, v in value.items()})
    arguments = typing.get_args(kind)
    if type(None) in arguments:
        if value is None:
            return None
        return _from_plain(next(a for a in arguments if a is not type(None)), value, where)
    origin = typing.get_origin(kind)
    if origin is tuple:
        length = None if arguments[-1] is Ellipsis else len(arguments)
        if not isinstance(value, (list, tuple)) or length not in (None, len(value)):
            raise UsageError(f"{where} should be a list{f' of {length}' if length else ''}, not {value!r}")
        return tuple(_from_plain(arguments[0], item, where) for item in value)
    if origin is not None:
        if not isinstance(value, Mapping):
            raise UsageError(f"{where} should be an object, not {value!r}")
        return {name: _from_plain(arguments[1], item, f"{where}.{name}") for name, item in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UsageError(f"{where} should be of type {kind.__name__}, not {value!r}")
    return value


def refuse_unknown(keys: typing.Iterable[str], known: typing.Iterable[str], where: str) -> None:
    """Raise UsageError, with the nearest known one, for a key that is not known."""
    for key in keys:
        if key not in known:
            raise UsageError(f"{where} has no setting {key!r}{did_you_mean(key, known)}")


def _require(value: Mapping[str, Any], kind: Any, where: str) -> None:
    for item in dataclasses.fields(kind):
        has_default = item.default is not MISSING or item.default_factory is not MISSING
        if not has_default and item.name not in value:
            raise UsageError(f"{where} does not say its {item.name}")


def field_names(kind: type[Any]) -> list[str]:
    """Return the settings of a concern."""
    return [item.name for item in dataclasses.fields(kind)]


def settings_of(run: TrainRun) -> dict[str, Any]:
    """Return every setting of a run by its field name alone."""
    flat: dict[str, Any] = {"model": run.model, "tokenizer": run.tokenizer}
    flat["from_scratch"] = run.from_scratch
    for concern, kind in CONCERNS.items():
        part = getattr(run, concern)
        flat |= {name: getattr(part, name) for name in field_names(kind)}
    return flat


def settings_in(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return, by field name alone, the settings that a run's JSON names; it may leave any out.

    Raises UsageError for a key that no field has and for a value of another type.
    """
    flat = settings_of(TrainRun.from_json(value))
    named = {name for key, item in value.items() for name in (item if key in CONCERNS else (key,))}
    return {name: flat[name] for name in flat if name in named}


def foreign_settings(method: str, names: typing.Iterable[str]) -> list[str]:
    """Return which of these settings belong to other methods than this one."""
    own = {"method", *METHODS[method].settings} if method in METHODS else {"method"}
    return [name for name in names if name in field_names(MethodConfig) and name not in own]


def spelled(name: str) -> str:
    """Return a setting's name as options spell it."""
    return name.replace("_", "-")


def validate(run: TrainRun) -> None:
    """Raise UsageError, naming the setting, for a value outside its range."""
    flat = settings_of(run)
    for name, choices in CHOICES.items():
        if flat[name] not in choices:
            expected = ", ".join(choices)
            raise UsageError(
                f"{name} {flat[name]!r} is not one of {expected}{did_you_mean(str(flat[name]), choices)}"
            )
    at_least: dict[str, float] = {
        "rank": 1, "epochs": 1, "batch_size": 1, "accumulate": 1, "max_length": 8, "max_steps": 1,
        "eval_every": 1, "save_every": 1, "patience": 1, "threads": 1, "weight_decay": 0, "clip": 0,
        "seed": 0, "plain_attention": 0, "feature_cache": 0,
    }  # fmt: skip
    for name, least in at_least.items():
        if flat[name] is not None and not least <= flat[name] < float("inf"):
            raise UsageError(f"{spelled(name)} must be at least {least:g}, not {flat[name]!r}")
    for name in ("lora_dropout", "dropout", "warmup", "beta1", "beta2"):
        if not 0 <= flat[name] < 1:
            raise UsageError(f"{spelled(name)} must be in [0, 1), not {flat[name]!r}")
    for name in ("learning_rate", "alpha", "max_minutes"):
        if flat[name] is not None and not 0 < flat[name] < float("inf"):
            raise UsageError(f"{spelled(name)} must be a positive number, not {flat[name]!r}")
    if run.training.seed >= SEEDS:
        raise UsageError(f"seed must be below 2^63, not {run.training.seed}")
    _validate_layers(run.method.layers)
    _validate_targets(run.method)
    if run.encoding.label_words is not None and len(set(run.encoding.label_words)) != 2:
        raise UsageError("label words are two different words: --label-words yes,no")
    if run.from_scratch is not None:
        _validate_shape(run.from_scratch)
    if run.from_scratch is not None and (not task_row(run.task).stream or run.method.method != "full"):
        raise UsageError(
            "--from-scratch trains every weight on plain text: train text --full --from-scratch ..."
        )


def _validate_layers(layers: tuple[int, int] | None) -> None:
    if layers is not None and not 0 <= layers[0] <= layers[1]:
        raise UsageError(f"layers {layers[0]}-{layers[1]} is not a range of blocks", "--layers 6-11")


def _validate_shape(shape: Shape) -> None:
    wrong = [name for name, size in dataclasses.asdict(shape).items() if size < 1]
    if wrong:
        raise UsageError(f"from-scratch: {', '.join(wrong)} must be at least 1")
    if shape.n_embd % shape.n_head:
        raise UsageError(f"from-scratch: {shape.n_head} heads do not divide a width of {shape.n_embd}")


def _validate_targets(method: MethodConfig) -> None:
    if method.method != "lora":
        return
    for target in method.targets:
        if target not in TARGETS:
            known = ", ".join(TARGETS)
            raise UsageError(f"no target {target!r}{did_you_mean(target, TARGETS)} (targets: {known})")
    if not method.targets or len(set(method.targets)) != len(method.targets):
        raise UsageError(f"targets must be distinct and at least one: {','.join(method.targets)!r}")
    if "c_attn" in method.targets and {"query", "key", "value"} & set(method.targets):
        raise UsageError("c_attn is one adapter on query, key and value together; name it or them, not both")
