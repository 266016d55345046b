"""Continue texts with a session: the choice of the texts, and the default sampling of tokens."""

from __future__ import annotations

from collections.abc import Sequence

from explora.core.config.concerns import DataConfig
from explora.core.config.registry import TASKS
from explora.core.data.splits import Row
from explora.core.generate.decode import generate
from explora.core.generate.sampling import SamplingConfig
from explora.core.runs.assemble import Session
from explora.core.runs.evaluate import read_rows
from explora.errors import UsageError

MAX_NEW_TOKENS = 256
BATCH_SIZE = 32


def default_sampling(task: str) -> SamplingConfig:
    """Return the default sampling of `explora generate` for a task."""
    return SamplingConfig(**TASKS[task].sampling)


def rows_to_continue(
    session: Session, config: DataConfig, trained_on: DataConfig, split: str | None
) -> list[Row]:
    """Return the rows of a file or a split, each with its whole `text`.

    Raises UsageError for a task whose rows have no texts to continue.
    """
    found = read_rows(session, config, trained_on, split)
    rows = [example.row for example in found.found.examples]
    if all(row.values.get("text") for row in rows):
        return rows
    if found.split != "all":
        raise UsageError(f"the splits of {session.task_name} have no texts to continue", "--data FILE")
    return [row for row, _ in session.task.prompts(found.data)]


def continue_texts(
    session: Session,
    prompts: Sequence[str],
    sampling: SamplingConfig,
    seed: int,
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int = BATCH_SIZE,
) -> list[str]:
    """Return one continuation of each prompt; the seed of a prompt is `seed` plus its number."""
    encoded = [session.prompt(text, seed + number) for number, text in enumerate(prompts)]
    found = generate(session.model, encoded, sampling, max_new_tokens, session.tokenizer, batch_size)
    return [session.tokenizer.decode(item.ids) for item in found]
