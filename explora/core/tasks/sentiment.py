"""Text classification by a linear `score` head on the last real token.

The layout of transformers' GPT2ForSequenceClassification: no end-of-text is appended.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from explora.core.data.splits import Row
from explora.core.model.gpt2 import GPT2
from explora.core.tasks.classification import Classification


class Sentiment(Classification):
    """See the module; the classes are the labels of the train split."""

    name = "sentiment"

    def head_classes(self) -> int | None:
        """One for each label."""
        return len(self.labels)

    def encode(self, rows: Sequence[Row]) -> list[list[int]]:
        """Encode each text; what is beyond the longest allowed is cut off."""
        encoded = self.setting.tokenizer.encode_batch([row.values["sentence"] for row in rows])
        return [ids[: self.setting.max_length] for ids in encoded]

    def class_logits(self, model: GPT2, hidden: Tensor) -> Tensor:
        """The logits of the head."""
        return model.classify(hidden)
