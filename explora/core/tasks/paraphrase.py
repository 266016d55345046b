"""Paraphrase detection as a cloze: the model completes a question about two sentences with yes or no.

The answer compares two rows of the tied head, one per label word, at the last position. With --last-linear, a
new linear head with two classes replaces them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from explora.core.config.registry import TASKS
from explora.core.data.splits import Row
from explora.core.model.gpt2 import GPT2
from explora.core.tasks.classification import Classification
from explora.core.tasks.contract import TaskContext
from explora.errors import DataError, UsageError

FIELDS = {"sentence1", "sentence2"}
SPELLINGS = {"1": "1", "01": "1", "yes": "1", "true": "1", "0": "0", "00": "0", "no": "0", "false": "0"}
SPELLINGS |= {token: label for label, token in TASKS["paraphrase"].course_ids.items()}


class Paraphrase(Classification):
    """Paraphrase detection as described above; class 1 is a paraphrase."""

    prediction_column = "Predicted_Is_Paraphrase"

    def __init__(self, context: TaskContext) -> None:
        super().__init__(context)
        self.labels = ("0", "1")
        self.template = context.encoding.template or ""
        yes, no = context.encoding.label_words or ("yes", "no")
        self.candidates = (self._label_row(no), self._label_row(yes))
        self.label_rows = torch.tensor(self.candidates)

    def _label_row(self, word: str) -> int:
        """Return the token of a label word, with a space before it unless the template ends with one."""
        spaced = word if self.template[-1:].isspace() else " " + word
        (ids,) = self.context.tokenizer.encode_parts([spaced])
        if len(ids) != 1:
            raise UsageError(
                f"the label word {word!r} is {len(ids)} tokens of this base instead of one",
                "choose common short words: --label-words yes,no",
            )
        return ids[0]

    def canonical(self, label: str) -> str:
        """Return "1" for 1, 1.0, yes, true and 8505, and "0" likewise; other labels do not change."""
        plain = super().canonical(label).lower()
        return SPELLINGS.get(plain, label)

    def label_word(self, label: int) -> str:
        """Return yes for a paraphrase, else no."""
        return ("no", "yes")[label]

    def expected_labels(self) -> str:
        """Return the accepted spellings of a label, for messages."""
        return "yes/no, true/false or 1/0"

    def encode(self, rows: Sequence[Row]) -> list[list[int]]:
        """Fill the template; if the result is too long, cut the sentences, the longer one first."""
        prompts = [self.template.format_map(row.values) for row in rows]
        encoded = self.context.tokenizer.encode_batch(prompts)
        return [
            ids if len(ids) <= self.context.max_length else self._cut(row)
            for row, ids in zip(rows, encoded, strict=True)
        ]

    def _cut(self, row: Row) -> list[int]:
        tokenizer = self.context.tokenizer
        names = sorted(FIELDS)
        parts = tokenizer.encode_parts([row.values[name] for name in names])
        sentences = dict(zip(names, parts, strict=True))
        while any(sentences.values()):
            texts = {name: _whole_characters(tokenizer.decode(ids)) for name, ids in sentences.items()}
            ids = tokenizer.encode(self.template.format_map(texts))
            excess = len(ids) - self.context.max_length
            if excess <= 0:
                return ids
            longer = max(sentences, key=lambda name: len(sentences[name]))
            gap = abs(len(sentences["sentence1"]) - len(sentences["sentence2"]))
            kept = len(sentences[longer]) - max(1, min(excess, gap or excess // 2))
            sentences[longer] = sentences[longer][: max(0, kept)]
        raise DataError(
            f"the template leaves no room for the sentences in {self.context.max_length} tokens",
            "raise --max-length or shorten the template",
            file=row.file,
            line=row.line,
        )

    def class_logits(self, model: GPT2, hidden: Tensor) -> Tensor:
        """Return the logits of no and yes; they come from the head if there is one."""
        if model.score is not None:
            return super().class_logits(model, hidden)
        self.label_rows = self.label_rows.to(hidden.device)
        return model.logits(hidden, self.label_rows)


def _whole_characters(text: str) -> str:
    """Remove the last character of a cut text if some of its bytes are missing."""
    return text.rstrip("\N{REPLACEMENT CHARACTER}")
