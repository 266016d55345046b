"""How words sound: what the dictionary tells, and what the spelling tells where it has nothing."""

from __future__ import annotations

import pytest

from explora.core.tasks.pronunciation import rhymes, stresses, words


def test_words_keep_their_apostrophes_and_nothing_else() -> None:
    assert words("Feed'st thy light\u2019s flame -- 'gainst ALL!") == [
        *("feed'st", "thy", "light's", "flame", "gainst", "all"),
    ]


@pytest.mark.parametrize(
    ("word", "patterns"),
    [("temperate", {"100", "10"}), ("compare", {"01"}), ("fire", {"10", "1"}), ("permit", {"01", "12"})],
)
def test_stress_comes_from_the_dictionary(word: str, patterns: set[str]) -> None:
    assert stresses(word) == patterns


@pytest.mark.parametrize(
    ("word", "syllables"), [("mak'st", 1), ("o'er", 1), ("unlooked", 2), ("presenteth", 3), ("brr", 1)]
)
def test_an_unknown_word_has_the_syllables_of_its_spelling(word: str, syllables: int) -> None:
    assert stresses(word) == {"?" * syllables}


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("increase", "decease", True),
        ("thee", "be", True),
        ("memory", "thee", True),  # verse stresses the last syllable
        ("heaven", "seven", True),
        ("heaven", "london", False),
        ("love", "prove", False),  # no longer
        ("eyes", "lies", True),
        ("day", "day", False),  # a word does not rhyme with itself
        ("untrimmed", "dimmed", True),  # the dictionary lacks the first
        ("mak'st", "tak'st", True),
        ("untrimmed", "killed", False),
        ("brr", "pst", False),
    ],
)
def test_rhymes(first: str, second: str, expected: bool) -> None:
    assert rhymes(first, second) is rhymes(second, first) is expected
