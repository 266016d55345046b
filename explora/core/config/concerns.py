"""The settings of a run that do not depend on its method, one frozen dataclass per concern."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from explora.core.config import values
from explora.core.config.setting import FRACTION, POSITIVE, Range, at_least, setting


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Source of the rows: `data` is a file, a folder, a known name, or None for the sample data."""

    data: str | None = setting(
        None,
        "CSV, TSV, JSON or CS224N file, a folder with train, dev and test files, or a known data set.",
        metavar="FILE|FOLDER|NAME",
        default="the package's sample data",
    )
    dev: str | None = setting(
        None, "File with the rows for dev scores.", metavar="FILE", default="10 % of --data"
    )
    columns: Mapping[str, str] = setting(
        {},
        "Columns of the file, such as sentence1=q_a,label=is_dup. Without a header, positions: label=2.",
        metavar="OURS=THEIRS,...",
        default="the task's names",
        parse=values.parse_columns,
    )
    format: str = setting(
        "auto", "File format. msr: the unquoted file of MSR's paraphrase corpus.", choices=("auto", "msr")
    )
    encoding: str = setting(
        "auto",
        "Text encoding, such as cp1252. auto: UTF-8, or UTF-16 or UTF-32 if the file shows it.",
        metavar="NAME",
    )
    skip_bad: bool = setting(False, "Skip and count bad rows instead of stopping at the first one.")


@dataclass(frozen=True, kw_only=True)
class EncodingConfig:
    """Conversion of a row to token ids; stored with the adapter and enforced when the adapter is used."""

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
    """The optimizer and its schedule. `warmup` is a share of all steps, from 0 to 1.

    `muon` orthogonalises the updates of the weight matrices in the blocks (Jordan et al. 2024) and uses AdamW
    for all other parameters.
    """

    optimizer: str = setting("adamw", "Optimizer.", choices=("adamw", "muon"))
    learning_rate: float = setting(
        1e-3, "Peak learning rate.", metavar="LR", default="by task, method and width", range=POSITIVE
    )
    weight_decay: float = setting(
        0.01, "Weight decay on the base's weight matrices; adapters have none.", range=at_least(0)
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
    """Length of the training, batches, and the steps between scores and saves.

    `eval_every` and `save_every` count optimizer steps; None means once per epoch. With `max_minutes` and
    without `max_steps`, a rehearsal measures how many steps fit into that time, and the run records the
    number.
    """

    epochs: int = setting(3, "Passes over the training set.", default="by task, else 3", range=at_least(1))
    max_steps: int | None = setting(
        None, "Stop after N optimizer steps.", metavar="N", default="no limit", range=at_least(1)
    )
    max_minutes: float | None = setting(
        None,
        "Take as many steps as fit into M minutes on this machine, evaluation included.",
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

    def steps_per_epoch(self, rows: int) -> int:
        """Return the number of optimizer steps in a pass over `rows` rows."""
        return math.ceil(rows / (self.batch_size * self.accumulate))

    def steps(self, rows: int) -> int:
        """Return the number of optimizer steps in a whole run on `rows` rows."""
        return self.max_steps or self.epochs * self.steps_per_epoch(rows)


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """Device, precision, threads and caches. `auto` and None are resolved once per run and then recorded.

    `feature_cache` is the limit in bytes for the features of frozen blocks on disk. `plain_attention` is the
    longest row, in tokens, for which a CPU computes attention by unfused products.
    """

    device: str = setting("auto", "Where to compute.", metavar="auto|cpu|cuda|mps")
    amp: str = setting(
        "auto",
        "Mixed precision. auto: bf16 in training if it is faster, else fp32.",
        choices=("auto", "off", "bf16", "fp16"),
    )
    grad_checkpoint: bool = setting(
        False, "Recompute activations instead of storing them: less memory, more time, the same result."
    )
    threads: int | None = setting(
        None,
        "CPU threads.",
        metavar="N",
        default="the fastest number on this machine, or OMP_NUM_THREADS",
        range=at_least(1),
    )
    plain_attention: int | None = setting(
        None,
        "Use unfused attention for rows of up to TOKENS tokens, and torch's fused kernel for longer rows.",
        metavar="TOKENS",
        default="the faster choice on this machine",
        range=at_least(0),
    )
    feature_cache: int = setting(
        4_000_000_000,
        "Disk space for the output of frozen blocks, which is then computed once and not in every epoch.",
        metavar="SIZE|off",
        range=at_least(0),
        parse=values.parse_size,
        show=values.show_size,
    )
