"""`explora train text` with documents that end in a weakly labelled answer, whose loss counts more.

    python benchmarks/pretrain/pretext.py train text --data FOLDER/train.txt.xz ...

The arguments are those of explora. Beside the train file lie `pairs.txt.xz` and `verdicts.txt.xz`; each
of their rows begins with the beginning of a document. The answer is "yes" or "no" after a space that is a
token of its own, as it stands after explora's paraphrase template. Its loss between the two is added with
`ANSWER_WEIGHT`: one token in forty would otherwise hardly be learned. The rows of the verdicts are
VERDICTS_TIMES times in an epoch (an environment variable, default 1). The dev score is the perplexity of
dev, without answers.
"""

from __future__ import annotations

import os
import sys
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from explora.core.config import registry
from explora.core.config.concerns import DataConfig
from explora.core.data.splits import Row
from explora.core.model.cross_entropy import tied_cross_entropy
from explora.core.model.gpt2 import GPT2
from explora.core.tasks.contract import Batch, Example, Split, TaskContext
from explora.core.tasks.text import LazyRows, Text, tokenise

# file -> how often its rows are in an epoch
ANSWERED = {"pairs.txt.xz": 1, "verdicts.txt.xz": int(os.environ.get("VERDICTS_TIMES", "1"))}
ANSWER_WEIGHT = 30.0


def row_starts(ids: NDArray[np.integer], end: int, length: int) -> list[int]:
    """Return where rows of `length` begin: at documents, and again at one that the row before cut off.

    A document longer than a row is cut into rows.
    """
    starts = [0, *(np.flatnonzero(ids == end) + 1).tolist()]
    chosen = [0]
    while chosen[-1] + length < len(ids):
        following = starts[bisect_right(starts, chosen[-1] + length) - 1]
        chosen.append(following if following > chosen[-1] else chosen[-1] + length)
    return chosen


class AnsweredRows(LazyRows):
    """Rows of answered documents; after a lone space " yes" and " no" become the tokens of the bare words."""

    def __init__(self, file: str, ids: NDArray[np.integer], starts: list[int], length: int) -> None:
        self.file, self.ids, self.starts, self.length = file, ids, starts, length

    def __len__(self) -> int:
        return len(self.starts)

    def row(self, index: int) -> Example:
        """Return what begins at this start."""
        start = self.starts[index]
        ids = self.ids[start : start + self.length].tolist()
        return Example(row=Row(file=self.file, line=0, id=str(index), values={}), ids=ids)


class Joined(LazyRows):
    """Several sequences of rows, one after the other."""

    def __init__(self, parts: list[Sequence[Example]]) -> None:
        self.parts = parts
        self.places = [(part, i) for part in parts for i in range(len(part))]

    def __len__(self) -> int:
        return len(self.places)

    def row(self, index: int) -> Example:
        """Return the row of the part that has it."""
        part, i = self.places[index]
        return part[i]


class TextWithAnswers(Text):
    """See the module."""

    def __init__(self, context: TaskContext) -> None:
        super().__init__(context)
        encode = context.tokenizer.encode
        (self.space,), (yes,), (no,) = encode(" "), encode("yes"), encode("no")
        (spaced_yes,), (spaced_no,) = encode(" yes"), encode(" no")
        self.bare = {spaced_yes: yes, spaced_no: no}
        self.label_rows = torch.tensor([no, yes])

    def load(self, config: DataConfig, split: str) -> Split:
        """Add the answered documents to the train rows."""
        plain = super().load(config, split)
        if split != "train":
            return plain
        folder = Path(str(config.data)).parent
        parts: list[Sequence[Example]] = [plain.examples]
        for name, times in ANSWERED.items():
            ids, _ = tokenise(str(folder / name), self.context.tokenizer)
            answered = self._with_bare_answers(ids)
            starts = row_starts(answered, self.context.tokenizer.eos, self.context.max_length)
            parts += [AnsweredRows(name, answered, starts, self.context.max_length)] * times
        return Split(examples=Joined(parts))

    def _with_bare_answers(self, ids: NDArray[np.integer]) -> NDArray[np.integer]:
        changed = np.array(ids)
        after_space = np.flatnonzero(changed[:-1] == self.space) + 1
        for spaced, bare in self.bare.items():
            changed[after_space[changed[after_space] == spaced]] = bare
        return changed

    def loss(self, model: GPT2, batch: Batch) -> Tensor:
        """Return the language-model loss and, weighted, that of the answers between yes and no."""
        hidden = model(batch.input_ids)
        states, targets = batch.predicted(hidden)
        total = tied_cross_entropy(states, model.wte.weight, targets)
        answers = (batch.input_ids == self.space) & (batch.targets[..., None] == self.label_rows).any(-1)
        if not answers.any():
            return total
        classes = (batch.targets[answers] == self.label_rows[1]).long()
        logits = model.logits(hidden[answers], self.label_rows)
        return total + ANSWER_WEIGHT * F.cross_entropy(logits, classes, reduction="sum")


def main() -> None:
    """Run explora with this task in the place of `text`."""
    sys.modules["pretext"] = sys.modules["__main__"]
    row = registry.TASKS["text"]
    registry.TASKS["text"] = replace(row, implementation="pretext:TextWithAnswers")
    from explora.__main__ import entry

    entry()


if __name__ == "__main__":
    main()
