"""Count the rows and tokens of the training sets, from which prices follow. This needs no weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.paper.prices import Count
from benchmarks.study.data import write_splits
from benchmarks.study.plan import ALL, Data, Plan
from explora.api import configure
from explora.core.base.tokenizer import Tokenizer, load_tokenizer
from explora.core.config.registry import TASKS, Shape
from explora.core.runs.assemble import make_task


def count_all(plan: Plan, source: Path, work: Path, shape: Shape) -> Iterator[tuple[str, Count]]:
    """Yield the name and the count of each data set in `source`, which has GPT-2's tokenizer, too.

    `work` is the folder that gets the splits; `shape` is that of the base that reads the rows.
    """
    tokenizer = load_tokenizer(source / "gpt2-tokenizer")
    for data in plan.data.values():
        train = write_splits(data, ALL, source, work).train
        yield data.name, count_rows(data, train, tokenizer, shape.n_positions)


def count_rows(data: Data, train: Path, tokenizer: Tokenizer, context: int) -> Count:
    """Count one training set. `context` is the number of tokens that the base reads."""
    run = configure(data.task, {"method": "full", "data": str(train), "dev": str(train)})
    task = make_task(data.task, tokenizer, run.encoding, run.method, context, run.training.seed)
    examples = task.load(run.data, "train").examples
    rows = len(examples)
    return Count(
        rows=rows,
        tokens=sum(len(example.ids) for example in examples),
        predicted=rows if TASKS[data.task].one_position else task.collate(examples, 0).weight,
    )
