"""A task that explora does not have, in one file, as someone who extends explora would write it.

conftest.py registers it, so that every law over the registry is also tried on a task that no module names.
"""

from __future__ import annotations

import atexit
import csv
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from explora.core.config.registry import TaskRow
from explora.core.data.splits import Row
from explora.core.tasks.classification import Classification


class Entailment(Classification):
    """Does a premise entail a hypothesis? A linear head on the last token chooses among three labels."""

    def encode(self, rows: Sequence[Row]) -> list[list[int]]:
        texts = [f"{row.values['premise']}\n{row.values['hypothesis']}" for row in rows]
        return [ids[: self.context.max_length] for ids in self.context.tokenizer.encode_batch(texts)]


COLUMNS = ("premise", "hypothesis", "label")
PEOPLE = ("The keeper", "Our neighbour", "A girl with a kite", "The tired old captain")
PLACES = {
    "train": ("the harbour", "a field", "the kitchen of the inn", "the station"),
    "dev": ("the garden",),
}
HYPOTHESES = {
    "entailment": "{who} was in {place}.",
    "neutral": "{who} was waiting for a letter.",
    "contradiction": "There was nobody in {place}.",
}


def write_samples(folder: Path) -> None:
    """Write every person at every place, with a hypothesis of each label."""
    for split, places in PLACES.items():
        with (folder / f"entailment-{split}.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(COLUMNS)
            for who, place, (label, hypothesis) in product(PEOPLE, places, HYPOTHESES.items()):
                premise = f"{who} spent the whole day in {place}."
                table.writerow((premise, hypothesis.format(who=who, place=place), label))


def made_samples() -> Path:
    """Return a folder of samples that lasts as long as this process."""
    folder = tempfile.TemporaryDirectory(prefix="explora-entailment-")
    atexit.register(folder.cleanup)
    write_samples(Path(folder.name))
    return Path(folder.name)


ENTAILMENT = TaskRow(
    summary="does a sentence follow from another one?",
    implementation="tests.toy_task:Entailment",
    columns=("premise", "hypothesis"),
    label="label",
    samples=made_samples(),
    classes=3,
    own_head=True,
    defaults={"epochs": 3, "batch_size": 8, "max_length": 128},
)
