"""The rows that every cell reads: a sample, so that the size of the data costs no time or memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

from explora.core.config.concerns import DataConfig
from explora.core.config.run_config import TrainRun
from explora.core.data.batching import WINDOW, epoch_batches
from explora.core.data.splits import Row
from explora.core.files import write_atomically
from explora.core.tasks.contract import Example


def sample(examples: Sequence[Example], runs: Sequence[TrainRun]) -> list[Row]:
    """Return the rows of the first 64 batches of the training of each run, and one row of each label.

    The batch that needs most memory is the first, so it is among them.
    """
    lengths = [len(example.ids) for example in examples]
    chosen = [
        number
        for training in (run.training for run in runs)
        for batch in islice(epoch_batches(lengths, training.batch_size, training.seed, epoch=0), WINDOW)
        for number in batch
    ]
    a_label = {example.label: number for number, example in enumerate(examples)}
    return [examples[number].row for number in dict.fromkeys([*chosen, *a_label.values()])]


def write_sample(rows: Sequence[Row], folder: Path) -> DataConfig:
    """Write rows as a data folder. Its dev split, which cells do not use, is one of them."""
    _write(folder / "train.jsonl", rows)
    _write(folder / "dev.jsonl", rows[:1])
    return DataConfig(data=str(folder))


def _write(file: Path, rows: Iterable[Row]) -> None:
    write_atomically(file, "".join(json.dumps(row.values, ensure_ascii=False) + "\n" for row in rows))
