"""Base class of the tasks that choose one of several classes: labels, batches, loss, scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from explora.core.config.concerns import DataConfig
from explora.core.config.registry import TASKS
from explora.core.data.batching import in_length_order, pad
from explora.core.data.labels import canonical_label, label_order
from explora.core.data.splits import Row, Table, load_split, read_table
from explora.core.generate.decode import Prompt
from explora.core.model.gpt2 import GPT2
from explora.core.tasks.contract import (
    Batch,
    Evaluation,
    Example,
    Split,
    TaskContext,
    encode_rows,
    stack_features,
)
from explora.core.tasks.metrics import Score, accuracy, macro_f1, positive_f1
from explora.core.tasks.trivial import values_of
from explora.errors import DataError, UsageError

UNNAMED = "LABEL_"  # transformers calls class 3 LABEL_3 if it has no name


class Classification(ABC):
    """A task whose answer is one of `labels`; a subclass encodes rows.

    `prediction_column` is the second column of a file of predictions.
    """

    metric = "accuracy"
    higher_is_better = True
    candidates: tuple[int, ...] | None = None
    prediction_column = "Prediction"

    def __init__(self, context: TaskContext) -> None:
        self.context = context
        self.labels = context.labels

    def head_classes(self) -> int | None:
        """Return the number of labels if a classification head answers, else None."""
        own_head = TASKS[self.context.name].own_head or self.context.needs_head
        return len(self.labels) if own_head else None

    @abstractmethod
    def encode(self, rows: Sequence[Row]) -> list[list[int]]:
        """Return the token ids of each row."""

    def class_logits(self, model: GPT2, hidden: Tensor) -> Tensor:
        """Return fp32 logits (B, classes) from the hidden states (B, C) of the last tokens."""
        return model.classify(hidden)

    def canonical(self, label: str) -> str:
        """Return the canonical spelling of a label: 3.0 becomes 3."""
        return canonical_label(label)

    def expected_labels(self) -> str:
        """Return the labels that a row may have, for messages."""
        return f"one of {', '.join(self.labels)}"

    def load(self, config: DataConfig, split: str) -> Split:
        """Read and encode a split; see `Task`. Raises DataError if all train rows have the same label."""
        table = load_split(self.context.name, config, split, self.context.seed)
        if split == "train":
            self._learn_labels(table.rows)
        return self._split(table, config)

    def read(self, source: str, config: DataConfig) -> Split:
        """Read and encode one file; see `Task`."""
        return self._split(read_table(source, self.context.name, config), config)

    def _learn_labels(self, rows: Sequence[Row]) -> None:
        found = {self.canonical(row.values["label"]) for row in rows if "label" in row.values}
        if len(found) < 2:
            raise DataError(
                f"every train row has the label {next(iter(found), '')!r}: there is nothing to learn",
                "use at least two classes; without --dev FILE, a tenth of a single file becomes the dev set",
                file=rows[0].file,
            )
        if not self.labels:
            self.labels = tuple(sorted(found, key=label_order))

    def _split(self, table: Table, config: DataConfig) -> Split:
        encoded = iter(self.encode(table.rows))
        # Labels of older runs have other spellings, so a label matches as it is written or in canonical form.
        classes = {self.canonical(label): index for index, label in enumerate(self.labels)}
        classes |= {label: index for index, label in enumerate(self.labels)}
        return encode_rows(
            table,
            lambda row: Example(row=row, ids=next(encoded), label=self._label(row, classes)),
            skip_bad=config.skip_bad,
        )

    def _label(self, row: Row, classes: Mapping[str, int]) -> int | None:
        if "label" not in row.values:
            return None
        given = row.values["label"]
        plain = self.canonical(given)
        for spelling in (given, plain, f"{UNNAMED}{plain}", plain.removeprefix(UNNAMED)):
            if spelling in classes:
                return classes[spelling]
        raise DataError(
            f"{given!r}: use {self.expected_labels()}",
            "correct it, name another column (--columns label=NAME), or leave such rows out (--skip-bad)",
            file=row.file,
            line=row.line,
            column="label",
        )

    def prompt(self, text: str, seed: int) -> Prompt:
        """Encode a prompt without changes."""
        return Prompt(ids=self.context.tokenizer.encode(text), seed=seed)

    def prompts(self, source: str) -> Iterator[tuple[Row, str]]:
        """Raise UsageError: the rows of this task are not prompts."""
        raise UsageError(f"--data is for poems; {self.context.name} takes --prompt")

    def collate(self, examples: Sequence[Example], epoch: int) -> Batch:
        """Make a batch whose targets are the classes, or -1 for rows without a label."""
        lengths = torch.tensor([len(example.ids) for example in examples])
        targets = torch.tensor([-1 if example.label is None else example.label for example in examples])
        return Batch(
            input_ids=pad([example.ids for example in examples], self.context.tokenizer.eos),
            targets=targets,
            positions=lengths - 1,
            weight=len(examples),
            tokens=int(lengths.sum()),
            features=stack_features(examples),
        )

    def loss(self, model: GPT2, batch: Batch) -> Tensor:
        """Return the cross-entropy over the classes, summed over the rows."""
        hidden = model(batch.inputs, batch.positions)[:, 0]
        return F.cross_entropy(self.class_logits(model, hidden), batch.targets, reduction="sum")

    @torch.inference_mode()
    def probabilities(self, model: GPT2, examples: Sequence[Example], batch_size: int) -> Tensor:
        """Return the class probabilities (N, classes) of examples, in the order of the examples."""
        lengths = [len(example.ids) for example in examples]
        answers = torch.empty(len(examples), max(2, len(self.labels)))
        for rows in in_length_order(lengths, batch_size):
            batch = self.collate([examples[row] for row in rows], 0).to(model.device)
            hidden = model(batch.inputs, batch.positions)[:, 0]
            answers[rows] = self.class_logits(model, hidden).softmax(dim=-1).cpu()
        return answers

    def dev_score(self, model: GPT2, examples: Sequence[Example], batch_size: int) -> Score:
        """Return the accuracy on labelled examples."""
        answers = self.probabilities(model, examples, batch_size).argmax(dim=-1).tolist()
        return accuracy(answers, _gold(examples))

    def evaluate(
        self, model: GPT2, examples: Sequence[Example], train: Sequence[Example], batch_size: int
    ) -> Evaluation:
        """Return accuracy and F1, with the scores of trivial answers."""
        probabilities = self.probabilities(model, examples, batch_size)
        answers = probabilities.argmax(dim=-1).tolist()
        predictions = [
            self._prediction(example, answer, float(row[answer]))
            for example, answer, row in zip(examples, answers, probabilities, strict=True)
        ]
        if any(example.label is None for example in examples):
            return Evaluation(examples=len(examples), scores=None, predictions=predictions)
        gold = _gold(examples)
        return Evaluation.of(
            self._scores(answers, gold),
            self._trivial_scores(gold),
            examples=len(examples),
            predictions=predictions,
        )

    def score_texts(
        self, examples: Sequence[Example], texts: Sequence[str], train: Sequence[Example]
    ) -> dict[str, Score]:
        """Raise UsageError: a classifier writes no texts."""
        raise UsageError(f"{self.context.name} has no scores of continuations")

    def prediction_lines(self, predictions: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return a header, then the id and the answer of each row."""
        return [
            f"id \t {self.prediction_column} ",
            *(f"{item['id']}, {item['prediction']} " for item in predictions),
        ]

    def _scores(self, answers: Sequence[int], gold: Sequence[int]) -> dict[str, Score]:
        scores = {"accuracy": accuracy(answers, gold), "macro_f1": macro_f1(answers, gold)}
        if len(self.labels) == 2:
            scores["positive_f1"] = positive_f1(answers, gold)
        return scores

    def _trivial_scores(self, gold: Sequence[int]) -> dict[str, dict[str, float]]:
        """Return the scores of every constant answer, and of guessing each class as often as it occurs.

        For a class of share p, such guesses have an expected F1 of p. Their mean is one over the number of
        classes. No constant answer has a higher macro F1, and no guess a higher accuracy.
        """
        constant = {
            f"always {self.label_word(label)}": values_of(self._scores([label] * len(gold), gold))
            for label in sorted(set(gold))
        }
        return constant | {"random guesses": {"macro_f1": 1 / len(constant)}}

    def label_word(self, label: int) -> str:
        """Return the word for a class in messages."""
        return self.labels[label]

    def _prediction(self, example: Example, answer: int, probability: float) -> dict[str, Any]:
        prediction = {"id": example.row.id, "prediction": self.labels[answer], "probability": probability}
        return prediction if example.label is None else prediction | {"label": self.labels[example.label]}


def _gold(examples: Sequence[Example]) -> list[int]:
    unlabelled = next((example.row for example in examples if example.label is None), None)
    if unlabelled is not None:
        raise DataError(
            "this row has no label", "dev scores need labels", file=unlabelled.file, line=unlabelled.line
        )
    return [example.label for example in examples if example.label is not None]
