"""The feature cache: the output of the frozen blocks, computed once, in a memory-mapped file.

If a method trains only the top of the model, without dropout, the blocks below the first trained one give the
same output for an example in every epoch. The cache computes this output before the first step, always in
the same batches, so that a repeated and a resumed run read the same bits.

Each example carries its features, `collate` pads them as it pads ids, and the model continues from them.
Tasks and methods do not depend on the cache. Dev scores use it, too.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from explora.core.config.run_config import TrainRun
from explora.core.data.batching import in_length_order
from explora.core.files import writing_in_place
from explora.core.model.gpt2 import GPT2, Features
from explora.core.tasks.contract import Example, Task
from explora.errors import WriteError

SPARE = 256 << 20  # bytes to leave free on the disk, for adapters, resume states and other programs


class FeatureCache:
    """The features of examples: C numbers for each token, or for the last token alone if no block is trained.

    size: bytes of the features in `file`; limit: bytes they may take; free: bytes that the disk has for them.
    """

    def __init__(
        self,
        model: GPT2,
        task: Task,
        examples: Sequence[Example],
        batch_size: int,
        file: Path,
        *,
        limit: int,
        free: int,
    ) -> None:
        self.model, self.task, self.examples = model, task, examples
        self.file, self.limit, self.free = file, limit, free
        self.depth = model.frozen_depth()
        self.last_only = self.depth == len(model.h)
        lengths = [len(example.ids) for example in examples]
        self.rows = [1] * len(examples) if self.last_only else lengths
        self.batches = list(in_length_order(lengths, batch_size))
        self.size = sum(self.rows) * model.shape.n_embd * model.compute_dtype.itemsize

    @property
    def fits(self) -> bool:
        """Whether the file may be written; if not, training runs without it."""
        return self.size <= min(self.limit, self.free)

    def fill(self) -> Iterator[int]:
        """Compute and write the features, batch by batch; yields the number of examples done so far.

        Raises WriteError if the file cannot be written.
        """
        done = 0
        try:
            with writing_in_place(self.file) as write:
                for batch in self.batches:
                    for states in self._compute(batch):
                        write(states.view(torch.uint8).numpy().tobytes())
                    done += len(batch)
                    yield done
        except WriteError as error:
            error.hint = "free some space, or train without this file: --feature-cache off"
            raise

    @torch.inference_mode()
    def _compute(self, rows: Sequence[int]) -> list[Tensor]:
        device = self.model.device
        batch = self.task.collate([self.examples[row] for row in rows], 0).to(device)
        positions = batch.positions if self.last_only else None
        states = self.model.eval().features(batch.input_ids, self.depth, positions).states.cpu()
        return [states[place, : self.rows[row]] for place, row in enumerate(rows)]

    def attach(self) -> list[Example]:
        """Return the examples with their features, memory-mapped from the file."""
        dtype, width = self.model.compute_dtype, self.model.shape.n_embd
        count = self.size // dtype.itemsize
        mapped = torch.from_file(str(self.file), shared=False, size=count, dtype=dtype).view(-1, width)
        order = list(chain.from_iterable(self.batches))
        parts = torch.split(mapped, [self.rows[row] for row in order])
        features = {row: Features(part, self.depth) for row, part in zip(order, parts, strict=True)}
        return [replace(example, features=features[row]) for row, example in enumerate(self.examples)]


def _free_bytes(file: Path) -> int:
    there = next(parent for parent in file.parents if parent.exists())
    left_behind = file.stat().st_size if file.exists() else 0
    return shutil.disk_usage(there).free + left_behind - SPARE


def plan_feature_cache(
    model: GPT2, task: Task, run: TrainRun, train: Sequence[Example], dev: Sequence[Example], file: Path
) -> FeatureCache | None:
    """Return the cache of a run, or None if its features change from step to step, or it is switched off.

    Examples that are not in a list have no cache either: they are read on demand and may not fit on the disk.
    """
    limit = run.runtime.feature_cache
    if limit == 0 or run.training.dropout > 0 or not isinstance(train, list) or model.frozen_depth() == 0:
        return None
    batch_size = 2 * run.training.batch_size
    return FeatureCache(model, task, [*train, *dev], batch_size, file, limit=limit, free=_free_bytes(file))
