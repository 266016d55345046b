"""Columns: by name in either direction, by position where there is no header, all missing ones at once."""

from __future__ import annotations

import pytest

from explora.core.config.registry import TASKS
from explora.core.data.columns import RecordedColumns, match_columns, orient
from explora.errors import DataError, UsageError

PAIRS, SENTENCES = TASKS["paraphrase"], TASKS["sentiment"]
HEADER = ["q_a", "q_b", "is_dup"]
MAPPING = {"sentence1": "q_a", "sentence2": "q_b", "label": "is_dup"}


def match(there: list[str], given: dict[str, str], by_position: bool = True) -> dict[str, str]:
    return match_columns(there, PAIRS, given, "a.csv", by_position=by_position)


@pytest.mark.parametrize("given", [MAPPING, {theirs: ours for ours, theirs in MAPPING.items()}])
def test_a_mapping_may_be_written_in_either_direction(given: dict[str, str]) -> None:
    assert match(HEADER, given) == MAPPING


def test_ours_comes_first_where_both_sides_are_columns_of_the_task() -> None:
    assert orient({"label": "sentence1"}, PAIRS) == {"label": "sentence1"}


def test_a_pair_without_a_column_of_the_task_is_a_usage_error() -> None:
    with pytest.raises(
        UsageError, match=r"--columns lable=x: the task has no column 'lable'; did you mean label\?"
    ):
        match(HEADER, {"lable": "x"})
    with pytest.raises(UsageError, match="names 'label' twice"):
        match(HEADER, {"label": "is_dup", "q_a": "label"})


def test_positions_count_from_one_in_a_header_too() -> None:
    assert match(HEADER, {"sentence1": "2", "sentence2": "q_a"}) == {"sentence1": "q_b", "sentence2": "q_a"}
    assert match(["3", "1", "2"], {"sentence1": "1", "sentence2": "2"}) == {
        "sentence1": "1",
        "sentence2": "2",
    }


def test_all_missing_columns_are_listed_with_the_ways_to_name_them() -> None:
    with pytest.raises(DataError) as caught:
        match(HEADER, {})
    assert caught.value.message == (
        "a.csv:1: no columns 'sentence1', 'sentence2' (there are 1 'q_a', 2 'q_b', 3 'is_dup')"
    )
    assert caught.value.hint == (
        "name them: --columns sentence1=NAME,sentence2=NAME,label=NAME (leave label out if the rows have "
        "no labels); if line 1 is a row of data, "
        "give positions: --columns sentence1=1,sentence2=2,label=3"
    )
    with pytest.raises(DataError) as caught:
        match(HEADER, {}, by_position=False)
    assert caught.value.hint.startswith("name them: --columns sentence1=NAME,sentence2=NAME,label=NAME (")
    with pytest.raises(DataError) as caught:
        match(["q_a", "q_b", "label"], {}, by_position=False)
    assert caught.value.hint == "name them: --columns sentence1=NAME,sentence2=NAME"


REVIEWS = {"review": ["Good film", "Bad film", "Dull", "Fun"], "stars": ["4", "1", "2", "4"]}


@pytest.mark.parametrize(
    ("given", "sample", "proposed"),
    [
        ({}, REVIEWS, "sentence=review,label=stars"),
        ({}, {"stars": REVIEWS["stars"], "review": REVIEWS["review"]}, "sentence=review,label=stars"),
        ({"sentence": "Review", "label": "star"}, REVIEWS, "sentence=review,label=stars"),
        ({}, {"good": ["a", "b"], "bad": ["c", "d"]}, "sentence=NAME,label=NAME"),  # both are texts
        ({}, {**REVIEWS, "year": ["1999"]}, "sentence=NAME,label=NAME"),
        ({}, {"my review": REVIEWS["review"], "label": []}, "'sentence=my review'"),
        ({}, {"a, b": REVIEWS["review"], "label": []}, "sentence=NAME"),  # --columns cannot name it
    ],
)
def test_a_clear_column_is_proposed(
    given: dict[str, str], sample: dict[str, list[str]], proposed: str
) -> None:
    with pytest.raises(DataError) as caught:
        match_columns(list(sample), SENTENCES, given, "a.csv", by_position=False, sample=sample)
    assert caught.value.hint.split(" (")[0].split(": --columns ")[1] == proposed


def test_a_recorded_mapping_applies_where_it_fits() -> None:
    recorded = RecordedColumns(MAPPING)
    assert match(HEADER, recorded) == MAPPING
    own = ["sentence1", "sentence2", "label"]
    assert match(own, recorded) == dict(zip(own, own, strict=True))
    assert match([*own, "is_dup"], recorded)["label"] == "is_dup"
    with pytest.raises(DataError, match="no column 'is_dup'"):
        match(own, {"label": "is_dup"})
