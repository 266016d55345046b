"""Check the words of the project against `phrases.toml`, and the length of its sentences.

    python -m tests.words.check            everything
    python -m tests.words.check PREFIX     the paths that start with PREFIX

A comment `words-ok: REASON` excuses its own line and the next one.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.words.passages import ROOT, Passage, name_of, pages, passages
from tests.words.sentences import sentences

LONGEST = 25  # words of a sentence
SHARE = 0.95  # of the sentences that must not be longer
EXCUSE = re.compile(r"words-ok:\s*(\w.*)")


@dataclass(frozen=True)
class Phrase:
    """A phrase to avoid. `find` is a regular expression in which a space is any white space."""

    kind: str
    find: str
    use: str
    example: str

    def matches(self, text: str) -> Iterator[re.Match[str]]:
        """Yield the places where the phrase occurs, in any case."""
        yield from re.finditer(rf"(?<!\w)(?:{self.find})(?!\w)".replace(" ", r"\s+"), text, re.IGNORECASE)


@dataclass(frozen=True)
class Finding:
    """A phrase in a passage."""

    passage: Passage
    line: int
    found: str
    phrase: Phrase

    def __str__(self) -> str:
        place = f"{self.passage.path}:{self.line}" if self.line else self.passage.path
        return f"{place}: {self.found!r}. Write: {self.phrase.use}"


@cache
def phrases() -> tuple[Phrase, ...]:
    """Read the list, in its order."""
    kinds = tomllib.loads(Path(__file__).with_name("phrases.toml").read_text("utf-8"))
    return tuple(Phrase(kind, **entry) for kind, entries in kinds.items() for entry in entries)


def findings(passage: Passage) -> Iterator[Finding]:
    """Yield each phrase in the passage that no comment excuses."""
    for phrase in phrases():
        for match in phrase.matches(passage.text):
            line = passage.line and passage.line + passage.text[: match.start()].count("\n")
            if not _is_excused(passage.path, line):
                yield Finding(passage, line, " ".join(match[0].split()), phrase)


def _is_excused(path: str, line: int) -> bool:
    if not line:
        return False
    lines = _lines(path)
    return any(EXCUSE.search(each) for each in lines[max(line - 2, 0) : line])


@cache
def _lines(path: str) -> list[str]:
    file = ROOT / path
    return file.read_text("utf-8").splitlines() if file.is_file() else []


def main(prefix: str | None = None) -> int:
    """Print phrases to avoid, long sentences, and how many of them there are. Return 1 for an error."""
    found = [finding for passage in passages() for finding in findings(passage)]
    wrong = [each for each in found if _is_chosen(each.passage.path, prefix)]
    read = [
        (name_of(page), sentence)
        for page in pages()
        if _is_chosen(name_of(page), prefix)
        for sentence in sentences(page.read_text("utf-8"))
    ]
    long = [(path, sentence) for path, sentence in read if sentence.length > LONGEST]
    share = 1 - len(long) / max(len(read), 1)
    for finding in wrong:
        print(finding)
    for path, sentence in long if prefix or share < SHARE else []:
        print(f"{path}:{sentence.line}: {sentence.length} words: {sentence.text}")
    print(f"{share:.1%} of {len(read):,} sentences have at most {LONGEST} words (required: {SHARE:.0%})")
    return int(bool(wrong) or share < SHARE)


def _is_chosen(path: str, prefix: str | None) -> bool:
    return prefix is None or path.startswith(prefix)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
