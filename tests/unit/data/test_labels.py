"""Labels: which are missing, which spellings are one class, and an order that nothing random decides."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from explora.core.config.concerns import DataConfig
from explora.core.data.labels import canonical_label, is_missing, label_order
from explora.core.data.splits import load_split, read_table
from explora.errors import DataError

MISSING = [
    "nan",
    "NaN",
    "NAN",
    "-nan",
    "inf",
    "-inf",
    "Infinity",
    "None",
    "null",
    "NULL",
    "NA",
    "N/A",
    "<NA>",
]
CLASSES = ["none", "na", "n/a", "nano", "information", "nobody", "0", "neutral"]


@pytest.mark.parametrize("label", ["", *MISSING])
def test_what_software_writes_for_a_missing_value_is_no_label(label: str) -> None:
    assert is_missing(label)


@pytest.mark.parametrize("label", CLASSES)
def test_words_that_people_use_are_labels(label: str) -> None:
    assert not is_missing(label)


@pytest.mark.parametrize(
    ("label", "canonical"),
    [
        *((spelling, "1") for spelling in ("1", "1.0", "1.", "+1", "1e0", "1.000000000000000000e+00")),
        *((spelling, "0") for spelling in ("0", "-0.0", "0.0")),
        ("-3.0", "-3"),
        ("007", "007"),
        ("7", "7"),
        ("00", "00"),
        ("0.5", "0.5"),
        ("1_0", "1_0"),  # a number for float()
        ("१", "१"),  # likewise
        ("1e999999999", "1e999999999"),
        ("12345678901234567891", "12345678901234567891"),  # beyond the precision of a float
        ("True", "true"),
        ("FALSE", "false"),
        ("true", "true"),
        ("Yes", "Yes"),
    ],
)
def test_one_class_has_one_spelling(label: str, canonical: str) -> None:
    assert canonical_label(label) == canonical


def test_classes_are_sorted_by_value_then_by_letter_whatever_their_order_was() -> None:
    ordered = ["-3", "0", "0.5", "2", "007", "7", "10", "none", "yes"]
    for seed in range(20):
        shuffled = random.Random(seed).sample(ordered, len(ordered))
        assert sorted(shuffled, key=label_order) == ordered


@pytest.fixture
def rows(tmp_path: Path):
    def write(*labels: str) -> str:
        file = tmp_path / "rows.csv"
        file.write_text("sentence,label\n" + "".join(f"a film,{label}\n" for label in labels))
        return str(file)

    return write


@pytest.mark.parametrize("label", MISSING)
def test_a_missing_label_is_a_bad_row_and_in_a_whole_file_no_label(rows, label: str) -> None:
    with pytest.raises(DataError, match=f"'{label}' is a missing value, not a label") as caught:
        read_table(rows("0", label, "1"), "sentiment", DataConfig())
    assert caught.value.line == 3 and "--skip-bad" in caught.value.hint
    table = read_table(rows("0", label, "1"), "sentiment", DataConfig(skip_bad=True))
    assert [row.values["label"] for row in table.rows] == ["0", "1"]
    assert table.skipped == [caught.value.message]
    unlabelled = read_table(rows(label, "", "nan"), "sentiment", DataConfig())
    assert [row.values for row in unlabelled.rows] == [{"sentence": "a film"}] * 3


def test_a_training_set_without_any_label_is_an_error(rows) -> None:
    config = DataConfig(data=rows("nan", "nan"), dev="other.csv")
    with pytest.raises(DataError, match="no row has a label, so there is nothing to learn"):
        load_split("sentiment", config, "train", 0)
