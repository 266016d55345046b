"""Score candidates one after another on the same rows, so that only one model at a time is in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from explora.core.base.tokenizer import Tokenizer
from explora.core.config.concerns import DataConfig, RuntimeConfig
from explora.core.ranking.candidates import Candidate, LeftOut
from explora.core.ranking.forgetting import Forgetting, GeneralText
from explora.core.runs.adapter import is_adapter
from explora.core.runs.assemble import Session
from explora.core.runs.evaluate import Rows, evaluate_rows, read_rows
from explora.core.runs.open import open_run
from explora.core.tasks.contract import Evaluation, Example
from explora.core.tasks.metrics import Score
from explora.errors import DataError, ExploraError, Interrupted, UsageError


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How candidates are opened, and the rows on which all of them are scored.

    data: source of the rows; trained_on: the data settings of the runs; encoding: settings by name.
    """

    task: str
    data: DataConfig
    trained_on: DataConfig
    split: str | None
    runtime: RuntimeConfig
    encoding: Mapping[str, Any]
    model: str | None
    tokenizer: str | None
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A candidate with its scores.

    metric: the score that ranks it; forgetting: None if it was not measured.
    """

    task: str
    candidate: Candidate
    label: str
    metric: str
    evaluation: Evaluation
    rows: Rows
    tokenizer: Tokenizer
    forgetting: Forgetting | None = None

    @property
    def score(self) -> Score:
        """The score that ranks the candidate, with its counts by example."""
        return self.evaluation.statistics[self.metric]

    def without_predictions(self) -> Entry:
        """Return the entry without its predictions, which take most of its memory."""
        return replace(self, evaluation=replace(self.evaluation, predictions=()))


class Scoring:
    """Scores candidates on the rows of a setup. Rows are encoded once per tokenizer and encoding."""

    def __init__(self, setup: Setup, general_text: GeneralText | None = None) -> None:
        self.setup, self.general_text = setup, general_text
        self.encoded: dict[tuple[object, ...], Rows] = {}

    def run(self, candidates: Sequence[Candidate]) -> Iterator[Entry | LeftOut]:
        """Yield the entry of each candidate, or why it has none; a failure does not stop the others.

        Raises UsageError for rows without labels.
        """
        first: Entry | None = None
        for candidate in candidates:
            found = self._score(candidate)
            if isinstance(found, Entry):
                first = first or found
                found = (
                    found if _in_equal_pieces(first.score, found.score) else _in_other_pieces(first, found)
                )
            yield found

    def _score(self, candidate: Candidate) -> Entry | LeftOut:
        """Return the entry of a candidate; its model is freed before the next one is opened."""
        try:
            session = self._open(candidate)
            rows = self._rows(session)
        except Interrupted:
            raise
        except ExploraError as error:
            return LeftOut(name=candidate.name, reason=error.message)
        if candidate.method is None and is_adapter(Path(candidate.name)):
            candidate = replace(candidate, method=session.method)
        return self._entry(candidate, session, rows)

    def _open(self, candidate: Candidate) -> Session:
        setup = self.setup
        session = open_run(
            setup.task,
            candidate.name,
            model=setup.model,
            tokenizer=setup.tokenizer,
            runtime=setup.runtime,
            encoding=setup.encoding,
        )
        session.settle()
        return session

    def _rows(self, session: Session) -> Rows:
        key = (
            session.tokenizer.digest,
            session.encoding,
            session.task.labels,
            session.model.shape.n_positions,
        )
        if key not in self.encoded:
            setup = self.setup
            rows = read_rows(session, setup.data, setup.trained_on, setup.split)
            _check_same(next(iter(self.encoded.values()), rows), rows)
            self.encoded[key] = rows
        return self.encoded[key]

    def _entry(self, candidate: Candidate, session: Session, rows: Rows) -> Entry:
        evaluation = evaluate_rows(session, rows, self.setup.trained_on, self.setup.batch_size)
        if evaluation.scores is None:
            raise UsageError(
                "rows without labels have no scores to compare",
                f"explora eval {self.setup.task} RUN --data -",
            )
        return Entry(
            task=self.setup.task,
            candidate=candidate,
            label=session.label,
            metric=session.task.metric,
            evaluation=evaluation,
            rows=rows,
            tokenizer=session.tokenizer,
            forgetting=self.general_text.compare(session, candidate) if self.general_text else None,
        )


def _check_same(first: Rows, rows: Rows) -> None:
    """Raise DataError if the rows differ from the first, for example because another seed chose them.

    Rows of plain text have no values to compare; for these, `_in_equal_pieces` compares the scores.
    """
    mine, other = ([_identity(each) for each in each_rows.found.examples] for each_rows in (first, rows))
    if any(values for *_, values in mine) and mine != other:
        raise DataError(f"it reads other rows of {rows.data} than the runs before it")


def _identity(example: Example) -> tuple[str, int, Mapping[str, str]]:
    return example.row.file, example.row.line, example.row.values


def _in_equal_pieces(first: Score, other: Score) -> bool:
    """Return whether two scores have equally many examples, each with equally many tokens."""
    sizes = first.by_example[:, -1], other.by_example[:, -1]
    return len(sizes[0]) == len(sizes[1]) and bool((sizes[0] == sizes[1]).all())


def _in_other_pieces(first: Entry, entry: Entry) -> LeftOut:
    return LeftOut(
        name=entry.candidate.name,
        reason=f"its tokenizer or its longest row differs from that of {first.candidate.name}, "
        f"so their {entry.metric} values cannot be compared",
    )
