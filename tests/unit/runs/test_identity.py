"""What a run is trained on: every change of base, tokenizer, text, labels or lines is another identity."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from explora.core.config.precedence import resolve
from explora.core.data.splits import Row
from explora.core.runs.assemble import assemble_for_training
from explora.core.runs.identity import Identity, RowsIdentity, _identify_rows, identify, require_same
from explora.core.tasks.contract import Example
from explora.errors import IdentityError
from tests.tiny_models import tiny_run

ROWS = RowsIdentity(rows=2, ids="a", labels="b")
BEFORE = Identity(base="x", tokenizer="y", classes=("0", "1"), train=ROWS, dev=ROWS)


def rows(*values: tuple[list[int], int | None, tuple[int, ...]], line: int = 1) -> RowsIdentity:
    return _identify_rows(
        [
            Example(row=Row(file="f", line=line, id="", values={}), ids=ids, label=label, breaks=breaks)
            for ids, label, breaks in values
        ]
    )


@pytest.mark.parametrize(
    ("other", "ids_differ", "labels_differ"),
    [
        (rows(([1, 2], 0, ()), ([3], 1, ())), False, False),
        (rows(([1], 0, ()), ([2, 3], 1, ())), True, False),  # the same tokens in other rows
        (rows(([3], 0, ()), ([1, 2], 1, ())), True, False),  # another order
        (rows(([1, 2], 1, ()), ([3], 0, ())), False, True),
        (rows(([1, 2], None, ()), ([3], None, ())), False, True),
        (rows(([1, 2], 0, (1,)), ([3], 1, ())), True, False),
    ],
)
def test_ids_rows_and_labels_count(other: RowsIdentity, ids_differ: bool, labels_differ: bool) -> None:
    first = rows(([1, 2], 0, ()), ([3], 1, ()))
    assert (first.ids != other.ids, first.labels != other.labels) == (ids_differ, labels_differ)


def test_the_line_of_a_poem_counts_because_its_targets_are_drawn_by_it() -> None:
    assert rows(([1, 2], None, (2,)), line=1) != rows(([1, 2], None, (2,)), line=2)
    assert rows(([1, 2], 0, ()), line=1) == rows(([1, 2], 0, ()), line=2)


@pytest.mark.parametrize("task", ["text", "paraphrase"])
def test_an_identity_survives_json_and_says_what_was_read(
    task: str, tiny_base: Path, tiny_data: Path
) -> None:
    run = tiny_run(tiny_base, tiny_data, task)
    session, train, dev = assemble_for_training(run)
    found = identify(session, train, dev)
    assert Identity.from_json(found.to_json()) == found
    assert found.train is not None and found.train.rows == len(train.examples)
    assert found.train != found.dev
    assert identify(*assemble_for_training(run)) == found


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"base": "z"}, ["the weights of the base embedded changed"]),
        ({"tokenizer": "z", "train": RowsIdentity(rows=9, ids="", labels="")}, ["the tokenizer changed"]),
        ({"classes": ("neg", "pos")}, ["the classes in f.csv changed: (0, 1) then, (neg, pos) now"]),
        (
            {"train": RowsIdentity(rows=1200, ids="", labels="")},
            ["training data in f.csv", "2 rows then, 1,200"],
        ),
        ({"train": RowsIdentity(rows=2, ids="a", labels="z")}, ["same number of rows, but other labels"]),
        ({"dev": RowsIdentity(rows=2, ids="z", labels="b")}, ["the dev data in d.csv", "but other text"]),
        ({"dev": RowsIdentity(rows=2, ids="z", labels="z")}, ["but other text and labels"]),
    ],
)
def test_a_change_is_told(change: dict[str, Any], told: list[str]) -> None:
    run = resolve("sentiment", {"data": "f.csv", "dev": "d.csv"})[0]
    require_same(BEFORE, BEFORE, run, "runs/x", "")
    with pytest.raises(IdentityError) as caught:
        require_same(BEFORE, dataclasses.replace(BEFORE, **change), run, "runs/x", "put it back")
    assert caught.value.message.startswith("runs/x was trained with other inputs: ")
    assert all(part in caught.value.message for part in told)
    assert (caught.value.message.count("changed"), caught.value.hint) == (1, "put it back")


@pytest.mark.parametrize(
    ("options", "compared"),
    [
        ({"learning_rate"}, {"base", "tokenizer", "classes", "train", "dev"}),
        ({"data"}, {"base", "tokenizer"}),
        ({"max_length", "epochs"}, {"base", "tokenizer"}),
        ({"tokenizer"}, {"base"}),
        ({"model"}, set()),
    ],
)
def test_what_an_option_overrides_is_not_compared(options: set[str], compared: set[str]) -> None:
    kept = {name for name, value in vars(BEFORE.without(options)).items() if value is not None}
    assert kept == compared
