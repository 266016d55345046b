"""What a task is: the whole of what someone who adds one must supply.

A task turns rows into examples, examples into batches, a batch into a summed loss, and a model into an
evaluation. It never sees the optimizer, and asks the model only for the logits that it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from explora.core.base.tokenizer import Tokenizer
from explora.core.config.concerns import DataConfig, EncodingConfig
from explora.core.data.splits import Row, Table
from explora.core.generate.decode import Prompt
from explora.core.model.gpt2 import GPT2, Features
from explora.core.model.transfer import copy_to
from explora.core.tasks.metrics import FEW_EXAMPLES, Score
from explora.core.tasks.trivial import best_trivial, values_of
from explora.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One row, encoded. `label` indexes the task's labels; `breaks` are token offsets of line ends.

    `features`, where they are kept, are what the frozen blocks make of `ids`; see `feature_cache`.
    """

    row: Row
    ids: Sequence[int]
    label: int | None = None
    breaks: tuple[int, ...] = ()
    features: Features | None = None


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows padded on the right to the longest.

    input_ids (B, T); targets: (B,) classes, or (B, T) token ids with -100 where no loss is taken;
    positions (B,): the last real token of each row; weight: how many items the summed loss has;
    tokens: real tokens read; places (N,): where among the B T token targets a loss is taken, None for
    classes; features: those of the examples, padded likewise, where all have them.
    """

    input_ids: Tensor
    targets: Tensor
    positions: Tensor
    weight: int
    tokens: int
    places: Tensor | None = None
    features: Features | None = None

    @property
    def inputs(self) -> Tensor | Features:
        """What the model reads: the features where there are any, else the ids."""
        return self.input_ids if self.features is None else self.features

    def predicted(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return the hidden states, (N, C), at which a token is predicted, and these tokens, (N,).

        hidden: (B, T, C). The places are known from the start, because a boolean index would make the host
        wait for a GPU.
        """
        return hidden.flatten(0, 1)[self.places], self.targets.flatten()[self.places]

    def to(self, device: torch.device) -> Batch:
        """Return the batch with its tensors on a device. The host does not wait for a GPU to copy them."""
        if device == self.input_ids.device:
            return self
        places, features = self.places, self.features
        return replace(
            self,
            input_ids=copy_to(self.input_ids, device),
            targets=copy_to(self.targets, device),
            positions=copy_to(self.positions, device),
            places=None if places is None else copy_to(places, device),
            features=features and Features(copy_to(features.states, device), features.depth),
        )


def find_places(targets: Tensor) -> Tensor:
    """Return the places (N,) of `Batch` for token targets (B, T)."""
    return (targets.flatten() >= 0).nonzero().squeeze(1)


def stack_features(examples: Sequence[Example]) -> Features | None:
    """Return the features of a batch, rows padded on the right with zeros; None where one has none."""
    found = [example.features for example in examples if example.features is not None]
    if len(found) < len(examples):
        return None
    states = [item.states for item in found]
    same = len({len(item) for item in states}) == 1  # then stacking does it, in a tenth of the time
    padded = torch.stack(states) if same else pad_sequence(states, batch_first=True)
    return Features(padded, found[0].depth)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The scores of a split by metric; None where the rows have no labels.

    `intervals` are 95 % intervals. `floors` are the scores of the best trivial answers, and
    `trivial_answers` say what these are: "always yes". A metric without a trivial answer is in neither.
    `statistics` keeps the counts of each example, so that evaluations of the same rows can be paired.
    `notes` tell how scores were computed, and which were left out and why.
    """

    examples: int
    scores: Mapping[str, float] | None
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    floors: Mapping[str, float] = field(default_factory=dict)
    trivial_answers: Mapping[str, str] = field(default_factory=dict)
    higher_is_better: Mapping[str, bool] = field(default_factory=dict)
    statistics: Mapping[str, Score] = field(default_factory=dict)
    predictions: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()

    @classmethod
    def of(
        cls,
        scores: Mapping[str, Score],
        trivial: Mapping[str, Mapping[str, float]],
        *,
        examples: int,
        predictions: Sequence[Mapping[str, Any]] = (),
        notes: Sequence[str] = (),
    ) -> Evaluation:
        """Return the evaluation of measured scores; `trivial` has the scores of each trivial answer."""
        floors = best_trivial(scores, trivial)
        return cls(
            examples=examples,
            scores=values_of(scores),
            intervals={name: score.interval() for name, score in scores.items()},
            floors={name: floor.value for name, floor in floors.items()},
            trivial_answers={name: floor.answer for name, floor in floors.items()},
            higher_is_better={name: score.higher_is_better for name, score in scores.items()},
            statistics=scores,
            predictions=predictions,
            notes=notes,
        )

    @property
    def doubt(self) -> str:
        """Why the scores are weak evidence, in a sentence; empty for enough examples or an unknown number."""
        if self.examples == 0 or self.examples >= FEW_EXAMPLES:
            return ""
        return (
            f"{self.examples} rows are weak evidence: the intervals are wide. "
            f"Score at least {FEW_EXAMPLES} rows before you choose by such scores."
        )

    def to_json(self) -> dict[str, Any]:
        """Return the scores and what belongs to them as plain JSON data, without predictions and notes."""
        return {
            "scores": None if self.scores is None else dict(self.scores),
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "floors": dict(self.floors),
            "trivial_answers": dict(self.trivial_answers),
            "higher_is_better": dict(self.higher_is_better),
        }


@runtime_checkable
class DigestedRows(Protocol):
    """Examples that know their digest, because there may be too many to make each of them."""

    def digest(self) -> str:
        """Return a digest of everything that training reads of them."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Encoded examples, and one message for each bad row that was skipped."""

    examples: Sequence[Example]
    skipped: Sequence[str] = ()


def encode_rows(table: Table, encode: Callable[[Row], Example], *, skip_bad: bool) -> Split:
    """Encode the rows of a table; the first that cannot be used raises DataError.

    With `skip_bad` such rows are reported in `skipped`, as those that could not be read.
    """
    examples, skipped = list[Example](), list(table.skipped)
    for row in table.rows:
        try:
            examples.append(encode(row))
        except DataError as error:
            if not skip_bad:
                raise
            skipped.append(error.message)
    if not examples:
        raise DataError(f"no good row; the first: {skipped[0]}", file=table.rows[0].file)
    return Split(examples=examples, skipped=skipped)


@dataclass(frozen=True, kw_only=True)
class TaskContext:
    """Hold what a task is built with.

    `name` is the task's name in the registry. `needs_head` is that of the method. `n_positions` is the
    longest row that the model reads. `labels` are empty until they are learned or read.
    """

    name: str
    tokenizer: Tokenizer
    encoding: EncodingConfig
    needs_head: bool
    n_positions: int
    seed: int
    labels: tuple[str, ...] = ()

    @property
    def max_length(self) -> int:
        """How many tokens of a text the model and the setting allow."""
        return min(self.encoding.max_length, self.n_positions)


class Task(Protocol):
    """Define what a task does.

    `metric` names the score that picks the best adapter, by `higher_is_better`. `labels` names the classes.
    `candidates` are the tokens, one for each class, among which the tied head chooses; None where the whole
    vocabulary or a head of the task's own answers.
    """

    metric: str
    higher_is_better: bool
    labels: tuple[str, ...]
    candidates: tuple[int, ...] | None

    def __init__(self, context: TaskContext) -> None: ...

    def head_classes(self) -> int | None:
        """Return the number of classes of the `score` head this task trains, or None for the tied head.

        The head looks at the `positions` of a batch and nowhere else. The number agrees with
        `TaskRow.head_classes`, which knows it without torch.
        """

    def load(self, config: DataConfig, split: str) -> Split:
        """Read and encode "train", "dev" or "test"; the train split teaches the labels if none are known.

        Raises DataError with file, line and column for a row that cannot be used.
        """

    def read(self, source: str, config: DataConfig) -> Split:
        """Read and encode all of one file, or of stdin for "-"."""

    def prompt(self, text: str, seed: int) -> Prompt:
        """Encode a text to be continued: it begins as the training texts do, and knows where to stop."""

    def prompts(self, source: str) -> Iterator[tuple[Row, str]]:
        """Yield each row of a file with the text that it gives as a prompt.

        Raises UsageError for a task whose rows are no prompts, before anything is read.
        """

    def collate(self, examples: Sequence[Example], epoch: int) -> Batch:
        """Make a batch, its features by `stack_features`.

        The ids are the examples' in every epoch; the targets may be drawn anew, as a function of seed, epoch
        and row alone.
        """

    def loss(self, model: GPT2, batch: Batch) -> Tensor:
        """Return the loss summed over the `weight` items of the batch."""

    def dev_score(self, model: GPT2, examples: Sequence[Example], batch_size: int) -> Score:
        """Return `metric` on labelled examples: quick, for choosing the best step."""

    def evaluate(
        self, model: GPT2, examples: Sequence[Example], train: Sequence[Example], batch_size: int
    ) -> Evaluation:
        """Score a split in full; trivial answers that need training rows take them from `train`."""

    def score_texts(
        self, examples: Sequence[Example], texts: Sequence[str], train: Sequence[Example]
    ) -> dict[str, Score]:
        """Score one continuation of each example, by whatever wrote it; `train` shows what is copied.

        Raises UsageError for a task without such scores.
        """

    def prediction_lines(self, predictions: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return the lines of a file of predictions, in the submission format of the CS224N course.

        Raises UsageError for a task that makes no predictions.
        """
