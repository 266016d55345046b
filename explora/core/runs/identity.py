"""Identity of a run's inputs: digests of its base, its tokenizer and its encoded data.

The settings of a run name a base and a file; the digests show whether these are unchanged. They cover the
data that training reads, so a moved or converted file with equal rows counts as unchanged.
"""

from __future__ import annotations

import dataclasses
import hashlib
from array import array
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from explora.errors import IdentityError

if TYPE_CHECKING:
    from explora.core.config.run_config import TrainRun
    from explora.core.runs.assemble import Session
    from explora.core.tasks.contract import Example, Split

NO_CLASS = -1
UNDO_CHANGES = "put it back as it was, or start again with --overwrite"
# The settings that decide each part. An option for one of them chooses another base, tokenizer or data.
BASE = frozenset({"model", "from_scratch"})
TOKENIZER = BASE | {"tokenizer"}
ROWS = frozenset({"data", "dev", "columns", "format", "skip_bad", "seed"})
DATA = TOKENIZER | ROWS | {"method", "template", "label_words", "max_length"}


@dataclass(frozen=True, kw_only=True)
class RowsIdentity:
    """The encoded rows of a split: their number, and SHA-256 digests of the token ids and of the labels."""

    rows: int
    ids: str
    labels: str


@dataclass(frozen=True, kw_only=True)
class Identity:
    """The inputs of a run; None for parts that are unknown or must not be compared.

    base, tokenizer: SHA-256 digests; classes: the names of the labels, empty for a task without classes.
    """

    base: str | None
    tokenizer: str | None
    classes: tuple[str, ...] | None
    train: RowsIdentity | None
    dev: RowsIdentity | None

    def to_json(self) -> dict[str, Any]:
        """Return the value of `identity` in run.json."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Identity:
        """Build an identity from the value of `to_json`."""
        return cls(
            base=value["base"],
            tokenizer=value["tokenizer"],
            classes=tuple(value["classes"]),
            train=RowsIdentity(**value["train"]),
            dev=RowsIdentity(**value["dev"]),
        )

    def without(self, options: Container[str]) -> Identity:
        """Return the parts that none of these settings changes."""

        def kept(decisive: frozenset[str]) -> bool:
            return not any(name in options for name in decisive)

        return Identity(
            base=self.base if kept(BASE) else None,
            tokenizer=self.tokenizer if kept(TOKENIZER) else None,
            classes=self.classes if kept(DATA) else None,
            train=self.train if kept(DATA) else None,
            dev=self.dev if kept(DATA) else None,
        )


def identify(session: Session, train: Split, dev: Split) -> Identity:
    """Return the identity of the inputs of a session."""
    assert session.header is not None
    return Identity(
        base=session.header.base_digest,
        tokenizer=session.tokenizer.digest,
        classes=session.task.labels,
        train=_identify_rows(train.examples),
        dev=_identify_rows(dev.examples),
    )


def _identify_rows(examples: Sequence[Example]) -> RowsIdentity:
    """Digest the rows in their order, including line ends, which decide where a poem may be continued."""
    from explora.core.tasks.contract import DigestedRows

    if isinstance(examples, DigestedRows):
        return RowsIdentity(rows=len(examples), ids=examples.digest(), labels="")
    ids, places, labels = hashlib.sha256(), array("q"), array("q")
    for example in examples:
        ids.update(array("i", example.ids))
        places.append(len(example.ids))
        if example.breaks:
            places.extend((example.row.line, *example.breaks))
        labels.append(NO_CLASS if example.label is None else example.label)
    ids.update(places)
    return RowsIdentity(rows=len(examples), ids=ids.hexdigest(), labels=hashlib.sha256(labels).hexdigest())


def require_same(before: Identity, now: Identity, run: TrainRun, recorded: str, hint: str) -> None:
    """Raise IdentityError, listing every difference, unless all parts that both know are the same.

    `recorded` names the run of `before` in the message.
    """
    if changes := list(_changes(before, now, run)):
        raise IdentityError(f"{recorded} was trained with other inputs: {'; '.join(changes)}", hint)


def _changes(before: Identity, now: Identity, run: TrainRun) -> Iterator[str]:
    data = run.data.data or "the package's samples"
    if before.base not in (None, now.base):
        yield f"the weights of the base {run.model} changed"
    if before.tokenizer not in (None, now.tokenizer):
        yield "the tokenizer changed"
        return  # every id changes with it
    if before.classes not in (None, now.classes):
        yield f"the classes in {data} changed: {_listed(before.classes)} then, {_listed(now.classes)} now"
    if change := _changed_rows(before.train, now.train):
        yield f"the training data in {data} changed: {change}"
    if change := _changed_rows(before.dev, now.dev):
        yield f"the dev data in {run.data.dev or data} changed: {change}"


def _changed_rows(before: RowsIdentity | None, now: RowsIdentity | None) -> str:
    """Return how the rows of a split changed, or an empty string."""
    if before is None or now is None or before == now:
        return ""
    if before.rows != now.rows:
        return f"{before.rows:,} rows then, {now.rows:,} now"
    other_text, other_labels = before.ids != now.ids, before.labels != now.labels
    what = "text and labels" if other_text and other_labels else "text" if other_text else "labels"
    return f"the same number of rows, but other {what}"


def _listed(classes: tuple[str, ...] | None) -> str:
    return f"({', '.join(classes or ())})"
