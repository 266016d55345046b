"""The interface of a task: everything that a new task must supply.

A task turns rows into examples, examples into batches, a batch into a summed loss, and a model into an
evaluation. It has no access to the optimizer, and asks the model only for the logits that it needs.
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
    """One encoded row. `label` indexes the task's labels; `breaks` are token offsets of line ends.

    `features`, if they are cached, are the output of the frozen blocks for `ids`; see `feature_cache`.
    """

    row: Row
    ids: Sequence[int]
    label: int | None = None
    breaks: tuple[int, ...] = ()
    features: Features | None = None


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows padded on the right to the length of the longest.

    input_ids (B, T); targets: (B,) classes, or (B, T) token ids with -100 for tokens without a loss;
    positions (B,): the last real token of each row; weight: the number of items in the summed loss; tokens:
    the number of real tokens; places (N,): indices of the targets with a loss among the B T tokens, None for
    classes; features: those of the examples, padded in the same way, if all examples have them.
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
        """The model's input: the features if there are any, else the ids."""
        return self.input_ids if self.features is None else self.features

    def predicted(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return the hidden states, (N, C), that predict a token, and these tokens, (N,).

        hidden: (B, T, C). `places` avoids a boolean index, for which the host would wait for a GPU.
        """
        return hidden.flatten(0, 1)[self.places], self.targets.flatten()[self.places]

    def to(self, device: torch.device) -> Batch:
        """Return the batch with its tensors on a device, without waiting for a GPU to copy them."""
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
    """Return the indices (N,) of the token targets (B, T) with a loss: `Batch.places`."""
    return (targets.flatten() >= 0).nonzero().squeeze(1)


def stack_features(examples: Sequence[Example]) -> Features | None:
    """Return the features of a batch, rows padded on the right with zeros; None if an example has none."""
    found = [example.features for example in examples if example.features is not None]
    if len(found) < len(examples):
        return None
    states = [item.states for item in found]
    same = len({len(item) for item in states}) == 1  # then stack is ten times as fast as pad_sequence
    padded = torch.stack(states) if same else pad_sequence(states, batch_first=True)
    return Features(padded, found[0].depth)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The scores of a split by metric; None if the rows have no labels.

    `intervals` are 95 % intervals. `floors` are the scores of the best trivial answers, and `trivial_answers`
    describe these: "always yes". A metric without a trivial answer is in neither. `statistics` keeps the
    counts of each example, so that evaluations of the same rows can be paired. `notes` explain how scores
    were computed, and which were left out and why.
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
        """Build an evaluation from measured scores and the scores of each trivial answer."""
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
        """A warning if the scores are weak evidence; empty for enough rows or an unknown number of them."""
        if self.examples == 0 or self.examples >= FEW_EXAMPLES:
            return ""
        return (
            f"{self.examples} rows are weak evidence: the intervals are wide. "
            f"Score at least {FEW_EXAMPLES} rows before you choose by such scores."
        )

    def to_json(self) -> dict[str, Any]:
        """Return the scores and their details as plain JSON data, without predictions and notes."""
        return {
            "scores": None if self.scores is None else dict(self.scores),
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "floors": dict(self.floors),
            "trivial_answers": dict(self.trivial_answers),
            "higher_is_better": dict(self.higher_is_better),
        }


@runtime_checkable
class DigestedRows(Protocol):
    """Examples with a digest of their own, because there may be too many to build each of them."""

    def digest(self) -> str:
        """Return a digest of everything in them that training reads."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Encoded examples, and one message for each bad row that was skipped."""

    examples: Sequence[Example]
    skipped: Sequence[str] = ()


def encode_rows(table: Table, encode: Callable[[Row], Example], *, skip_bad: bool) -> Split:
    """Encode the rows of a table. Raises DataError for the first row that cannot be used.

    With `skip_bad`, such rows are reported in `skipped`, together with rows that could not be read.
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
        raise DataError(f"no usable row; the first problem: {skipped[0]}", file=table.rows[0].file)
    return Split(examples=examples, skipped=skipped)


@dataclass(frozen=True, kw_only=True)
class TaskContext:
    """The arguments from which a task is built.

    `name` is the task's name in the registry. `needs_head` is that of the method. `n_positions` is the length
    in tokens of the longest row that the model reads. `labels` is empty until the labels are read from the
    data or from a trained model.
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
        """Largest number of tokens per text that both the model and the setting allow."""
        return min(self.encoding.max_length, self.n_positions)


class Task(Protocol):
    """The operations of a task.

    `metric` is the score that picks the best adapter; `higher_is_better` gives its direction. `labels` are
    the names of the classes. `candidates` are the tokens, one per class, among which the tied head chooses;
    None if it chooses among the whole vocabulary, or if the task has its own head.
    """

    metric: str
    higher_is_better: bool
    labels: tuple[str, ...]
    candidates: tuple[int, ...] | None

    def __init__(self, context: TaskContext) -> None: ...

    def head_classes(self) -> int | None:
        """Return the number of classes of the `score` head that this task trains, or None for the tied head.

        The head reads only the `positions` of a batch. The number agrees with `TaskRow.head_classes`, which
        does not need torch.
        """

    def load(self, config: DataConfig, split: str) -> Split:
        """Read and encode "train", "dev" or "test"; the train split defines the labels if none are known.

        Raises DataError with file, line and column for a row that cannot be used.
        """

    def read(self, source: str, config: DataConfig) -> Split:
        """Read and encode the whole of one file, or of stdin for "-"."""

    def prompt(self, text: str, seed: int) -> Prompt:
        """Encode a text to continue, with the start of a training text and the condition to stop."""

    def prompts(self, source: str) -> Iterator[tuple[Row, str]]:
        """Yield each row of a file with the prompt that it gives.

        Raises UsageError, before it reads anything, for a task whose rows are not prompts.
        """

    def collate(self, examples: Sequence[Example], epoch: int) -> Batch:
        """Make a batch; its features come from `stack_features`.

        The ids are the examples' in every epoch. The targets may be random, as a function of seed, epoch and
        row only.
        """

    def loss(self, model: GPT2, batch: Batch) -> Tensor:
        """Return the loss summed over the `weight` items of the batch."""

    def dev_score(self, model: GPT2, examples: Sequence[Example], batch_size: int) -> Score:
        """Return the score `metric` of labelled examples: a fast score, to choose the best step."""

    def evaluate(
        self, model: GPT2, examples: Sequence[Example], train: Sequence[Example], batch_size: int
    ) -> Evaluation:
        """Compute all scores of a split; trivial answers that need training rows take them from `train`."""

    def score_texts(
        self, examples: Sequence[Example], texts: Sequence[str], train: Sequence[Example]
    ) -> dict[str, Score]:
        """Score one continuation per example, whoever wrote it; `train` may have been copied.

        Raises UsageError for a task without such scores.
        """

    def prediction_lines(self, predictions: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return the lines of a file of predictions, in the submission format of the CS224N course.

        Raises UsageError for a task that makes no predictions.
        """
