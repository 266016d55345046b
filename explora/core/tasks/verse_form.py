"""Scores of the form of verse: lines, metre, rhyme, repetition and copying. No score depends on meaning.

Each score sums counts over poems, so that intervals resample whole poems (see `metrics.Score`). Only lines
after the given ones count, except for the number of lines and for rhymes with given lines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from explora.core.config.registry import SONNET_LINES
from explora.core.tasks.metrics import Score, ratio_or_zero, share
from explora.core.tasks.pronunciation import has_dictionary, rhymes, stresses, words

RHYMING_LINES = ((0, 2), (1, 3), (4, 6), (5, 7), (8, 10), (9, 11), (12, 13))  # ABAB CDCD EFEF GG
COUPLET = RHYMING_LINES[-1]
PENTAMETER = 10  # syllables
COPIED_WORDS = 4
ONE_OF_EACH_POEM = ("lines", "couplet")  # yes or no for each poem, so that Wilson's interval applies
LOWER_IS_BETTER = ("repeated", "copied", "longest_copied")
BY_SOUND = ("syllables", "iambic", "rhyme", "couplet")


@dataclass(frozen=True, kw_only=True)
class Poem:
    """The lines of a poem; the first `given` of them were the prompt."""

    lines: Sequence[str]
    given: int

    @property
    def written(self) -> Sequence[str]:
        """The lines after the given ones."""
        return self.lines[self.given :]


def form_scores(poems: Sequence[Poem], training: Sequence[str]) -> dict[str, Score]:
    """Return the scores of form by name: shares from 0 to 1, except `longest_copied`, in words.

    `training` are the poems of the training set; without them, the two scores of copying are left out. Scores
    of sound are left out without the dictionary of pronunciations.
    """
    counts: dict[str, Callable[[Poem], tuple[int, int]]] = {"lines": _lines, "repeated": _repeated}
    if training:
        read = TrainingPoems(training)
        counts |= {"copied": read.copied, "longest_copied": read.longest_copied}
    if has_dictionary():
        sounds = (_syllables, _iambic, _rhyme, _couplet)
        counts |= dict(zip(BY_SOUND, sounds, strict=True))
    return {
        name: Score(
            np.array([count(poem) for poem in poems], dtype=np.int64),
            np.arange(len(poems)),
            share if name in ONE_OF_EACH_POEM else ratio_or_zero,
            higher_is_better=name not in LOWER_IS_BETTER,
        )
        for name, count in counts.items()
    }


def _lines(poem: Poem) -> tuple[int, int]:
    return int(len(poem.lines) == SONNET_LINES), 1


def _repeated(poem: Poem) -> tuple[int, int]:
    """Count the written lines that equal an earlier line, word by word."""
    above = [words(line) for line in poem.lines]
    repeated = sum(above[place] in above[:place] for place in range(poem.given, len(above)))
    return repeated, len(poem.written)


# --- sound ----------------------------------------------------------------------------------------


def _syllables(poem: Poem) -> tuple[int, int]:
    """Count the written lines that can be read in nine to eleven syllables."""
    lengths = range(PENTAMETER - 1, PENTAMETER + 2)
    fitting = [line for line in poem.written if not _readings(line).isdisjoint(lengths)]
    return len(fitting), len(poem.written)


def _iambic(poem: Poem) -> tuple[int, int]:
    """Count the written lines that scan as iambic pentameter, with or without an eleventh syllable."""
    lengths = (PENTAMETER, PENTAMETER + 1)
    fitting = [line for line in poem.written if not _readings(line, iambic=True).isdisjoint(lengths)]
    return len(fitting), len(poem.written)


def _readings(line: str, *, iambic: bool = False) -> set[int]:
    """Return the possible numbers of syllables of a line; with `iambic`, of its iambic readings only."""
    lengths = {0}
    for word in words(line):
        lengths = {
            start + len(pattern)
            for start in lengths
            for pattern in stresses(word)
            if not iambic or _scans(pattern, start)
        }
    return lengths


def _scans(pattern: str, start: int) -> bool:
    """Return whether a word fits an iambic line after `start` syllables.

    Its primary stress must fall on an even syllable of the line, or on the first, because poets often invert
    the first foot. Words of one syllable always fit.
    """
    stressed = [start + place for place, stress in enumerate(pattern, start=1) if stress == "1"]
    return len(pattern) == 1 or all(place % 2 == 0 or place == 1 for place in stressed)


def _rhyme(poem: Poem) -> tuple[int, int]:
    """Count the rhymes of ABAB CDCD EFEF GG whose second line was written; missing lines do not rhyme."""
    pairs = [pair for pair in RHYMING_LINES if pair[1] >= poem.given]
    return sum(_line_ends_rhyme(poem, pair) for pair in pairs), len(pairs)


def _couplet(poem: Poem) -> tuple[int, int]:
    return int(_line_ends_rhyme(poem, COUPLET)), 1


def _line_ends_rhyme(poem: Poem, pair: tuple[int, int]) -> bool:
    if max(pair) >= len(poem.lines):
        return False
    first, second = (words(poem.lines[place])[-1:] for place in pair)
    return bool(first and second) and rhymes(first[0], second[0])


# --- copies ---------------------------------------------------------------------------------------


class TrainingPoems:
    """Search for the words of a poem in the training poems."""

    def __init__(self, texts: Sequence[str]) -> None:
        # The bar prevents matches across two poems; the spaces prevent matches of parts of words.
        self._text = " | ".join(["", *(" ".join(words(text)) for text in texts), ""])

    def has(self, run: Sequence[str]) -> bool:
        """Return whether consecutive words occur in one of the poems; line ends are ignored."""
        return f" {' '.join(run)} " in self._text

    def copied(self, poem: Poem) -> tuple[int, int]:
        """Count the written 4-grams of words that occur in a training poem, and all written 4-grams."""
        written = _written_words(poem)
        runs = [written[at : at + COPIED_WORDS] for at in range(len(written) - COPIED_WORDS + 1)]
        return sum(map(self.has, runs)), len(runs)

    def longest_copied(self, poem: Poem) -> tuple[int, int]:
        """Return the length in words of the longest written sequence that occurs in a training poem."""
        written, longest = _written_words(poem), 0
        for start in range(len(written)):
            while start + longest < len(written) and self.has(written[start : start + longest + 1]):
                longest += 1
        return longest, 1


def _written_words(poem: Poem) -> list[str]:
    return words("\n".join(poem.written))
