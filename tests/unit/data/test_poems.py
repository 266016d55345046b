"""Poems: numbered, plain, in tables, and the course's own files against the course's own splitting."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from explora.core.config.concerns import DataConfig
from explora.core.data.splits import Row, read_table
from explora.errors import DataError

REAL = Path(os.environ.get("EXPLORA_DATA", "/nonexistent"))
needs_data = pytest.mark.skipif(not REAL.is_dir(), reason="EXPLORA_DATA is not set")


def read(path: Path, content: str, **config: object) -> list[tuple[int, str, str]]:
    path.write_text(content, newline="")
    return [
        (row.line, row.id, row.values["text"])
        for row in read_table(str(path), "sonnet", DataConfig(**config)).rows
    ]


def test_numbered_poems_under_a_header(tmp_path: Path) -> None:
    content = "Sonnets\nby Him\n\n\n18\n\nShall I\n  Compare thee\n\n19\n\nDevouring\n\nTime\n"
    assert read(tmp_path / "a.txt", content.replace("\n", "\r\n")) == [
        (5, "18", "Shall I\n  Compare thee"),
        (10, "19", "Devouring\nTime"),
    ]


def test_roman_numbers_and_a_common_indent(tmp_path: Path) -> None:
    content = "I\n\n  From fairest\n    creatures\n\n\nII\n\n  When forty\n\nIV.\n\n  Unthrifty\n"
    assert read(tmp_path / "a.txt", content) == [
        (1, "I", "From fairest\n  creatures"),
        (7, "II", "When forty"),
        (11, "IV", "Unthrifty"),
    ]


def test_poems_between_blank_lines(tmp_path: Path) -> None:
    assert read(tmp_path / "a.txt", "\nOne\ntwo \n \n\nThree\n") == [(2, "2", "One\ntwo"), (6, "6", "Three")]


def test_a_number_inside_a_poem_or_a_lone_title_is_no_numbering(tmp_path: Path) -> None:
    assert [text for _, _, text in read(tmp_path / "a.txt", "One\n\n1914\n\nTwo\n")] == ["One", "1914", "Two"]
    assert [text for _, _, text in read(tmp_path / "a.txt", "I\n\nOne\n\nI\n\nTwo\n")] == [
        "I",
        "One",
        "I",
        "Two",
    ]
    assert [text for _, _, text in read(tmp_path / "a.txt", "One\n7\ntwo\n")] == ["One\n7\ntwo"]


def test_a_single_numbered_poem(tmp_path: Path) -> None:
    assert read(tmp_path / "a.txt", "130\n\nMy mistress\n") == [(1, "130", "My mistress")]


def test_poems_in_tables(tmp_path: Path) -> None:
    expected = [(2, "x", "One\n  two\nthree")]
    assert read(tmp_path / "a.csv", 'id,text\nx,"One\n  two\n\nthree\n"\n') == expected
    line = '\n{"id": "x", "text": "One\\r\\n  two\\n\\nthree\\n"}\n'
    assert read(tmp_path / "a.jsonl", line) == expected
    assert read(tmp_path / "a.txt", line) == expected


def test_a_number_without_a_poem(tmp_path: Path) -> None:
    content = "1\n\nOne\n\n2\n\n3\n\nThree\n"
    with pytest.raises(DataError) as caught:
        read(tmp_path / "a.txt", content)
    assert caught.value.line == 5
    assert "poem 2 has no lines" in caught.value.message
    assert len(read(tmp_path / "a.txt", content, skip_bad=True)) == 2


@needs_data
@pytest.mark.parametrize(
    ("name", "first", "count", "lines"),
    [
        ("sonnets.txt", 1, 131, {14, 12, 15}),
        ("TRUE_sonnets_held_out_dev.txt", 132, 12, {14}),
        ("sonnets_held_out_dev.txt", 132, 12, {3}),
        ("sonnets_held_out.txt", 145, 12, {3}),
    ],
)
def test_the_course_files(name: str, first: int, count: int, lines: set[int]) -> None:
    path = REAL / "sonnets" / name
    rows: list[Row] = read_table(str(path), "sonnet", DataConfig()).rows
    assert [row.id for row in rows] == [str(number) for number in range(first, first + count)]
    assert {row.values["text"].count("\n") + 1 for row in rows} == lines
    # the course's own reader (sonnet_generation.py) splits at the numbers and strips
    by_the_course = re.split(r"\n\s*\d+\s*\n", path.read_text())[1:]
    assert [row.values["text"] for row in rows] == [poem.strip() for poem in by_the_course]
