"""Text classification by a linear `score` head on the last real token.

The layout is that of transformers' GPT2ForSequenceClassification: no end-of-text token is appended.
"""

from __future__ import annotations

from collections.abc import Sequence

from explora.core.data.splits import Row
from explora.core.tasks.classification import Classification


class Sentiment(Classification):
    """Text classification as described above; the classes are the labels of the train split."""

    prediction_column = "Predicted_Sentiment"

    def encode(self, rows: Sequence[Row]) -> list[list[int]]:
        """Encode each text, cut to the largest number of tokens."""
        encoded = self.context.tokenizer.encode_batch([row.values["sentence"] for row in rows])
        return [ids[: self.context.max_length] for ids in encoded]
