"""Two writers continue the same prompts: A is a run, B another run or the human author."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from explora.core.data.prompts import first_lines_of
from explora.core.data.splits import Row
from explora.core.judging.continuing import continue_texts, default_sampling
from explora.core.judging.pairs import Pair, make_pairs
from explora.core.runs.assemble import Session
from explora.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The names of A and B, and the pairs of their continuations."""

    a: str
    b: str
    pairs: Sequence[Pair]


def compare(a: Session, b: Session | None, rows: Sequence[Row], *, seed: int, batch_size: int) -> Comparison:
    """Pair two continuations of the first lines of each row; without `b`, B's is the rest of the row.

    Runs sample tokens with the defaults of `explora generate`; the seed is `seed` plus the row's number.
    Raises DataError if a row has no rest, or if all pairs are equal.
    """
    prompts = [first_lines_of(row) for row in rows]
    sampling = default_sampling(a.task_name)
    texts_a = continue_texts(a, prompts, sampling, seed, batch_size=batch_size)
    texts_b = (
        continue_texts(b, prompts, sampling, seed, batch_size=batch_size) if b else _written_by_people(rows)
    )
    pairs = make_pairs([row.id for row in rows], prompts, texts_a, texts_b, seed)
    if not pairs:
        raise DataError("all continuations are equal, so there is nothing to compare", "compare another run")
    return Comparison(a=a.label, b="human" if b is None else b.label, pairs=pairs)


def _written_by_people(rows: Sequence[Row]) -> list[str]:
    texts = [row.values["text"][len(first_lines_of(row)) :] for row in rows]
    for row, text in zip(rows, texts, strict=True):
        if not text.strip():
            raise DataError(
                "the text ends after the given lines",
                "use a file of whole poems",
                file=row.file,
                line=row.line,
            )
    return texts
