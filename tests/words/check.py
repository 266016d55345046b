"""Check the words of the project against `phrases.toml`, and the length of its sentences.

    python -m tests.words.check            findings in what is checked; counts for the rest
    python -m tests.words.check PREFIX     every finding and every long sentence in paths that start so

A line is excused by `words-ok: REASON` in a comment on it or above it.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.words.passages import ROOT, Passage, name_of, pages, passages
from tests.words.sentences import Sentence, sentences

# Words that are not plain yet. Delete a line to check a file, a folder or the help texts.
NOT_YET = (
    "README.md",
    "benchmarks/paper/",
    "benchmarks/study/",
    "docs/architecture.md",
    "docs/commands.md",
    "docs/compatibility.md",
    "docs/data-files.md",
    "docs/getting-started.md",
    "docs/guidelines.md",
    "docs/index.md",
    "docs/methods.md",
    "docs/performance.md",
    "docs/python-api.md",
    "docs/tasks.md",
    "docs/troubleshooting.md",
    "explora/__init__.py",
    "explora/__main__.py",
    "explora/api.py",
    "explora/cli.py",
    "explora/commands/",
    "explora/console.py",
    "explora/core/",
    "explora/errors.py",
    "explora/streams.py",
    "help:",
)

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


def is_checked(path: str) -> bool:
    """Whether a finding in this file is an error."""
    return not path.startswith(NOT_YET)


def long_ones(found: Iterable[Sentence]) -> list[Sentence]:
    """Return the sentences that have too many words."""
    return [each for each in found if each.length > LONGEST]


def _is_excused(path: str, line: int) -> bool:
    if not line:
        return False
    lines = _lines(path)
    return any(EXCUSE.search(each) for each in lines[max(line - 2, 0) : line])


@cache
def _lines(path: str) -> list[str]:
    file = ROOT / path
    return file.read_text("utf-8").splitlines() if file.is_file() else []


def main(prefix: str | None) -> int:
    """Print what was found. Return 1 if something that is checked is wrong."""
    found = [finding for passage in passages() for finding in findings(passage)]
    read = {name_of(page): list(sentences(page.read_text("utf-8"))) for page in pages()}
    shown = [each for each in found if _is_shown(each.passage.path, prefix)]
    for finding in shown:
        print(finding)
    if prefix:
        for path, all_of_it in read.items():
            for sentence in long_ones(all_of_it) if path.startswith(prefix) else []:
                print(f"{path}:{sentence.line}: {sentence.length} words: {sentence.text}")
    elsewhere = Counter(
        (each.passage.kind, each.phrase.kind) for each in found if not is_checked(each.passage.path)
    )
    for (passage_kind, phrase_kind), count in sorted(elsewhere.items()):
        print(f"not checked yet: {count} of kind {phrase_kind!r} in kind {passage_kind!r}")
    checked = [sentence for path, each in read.items() if is_checked(path) for sentence in each]
    share = 1 - len(long_ones(checked)) / len(checked) if checked else 1.0
    print(f"{share:.1%} of {len(checked)} sentences have at most {LONGEST} words (at least {SHARE:.0%})")
    return int(share < SHARE or any(is_checked(each.passage.path) for each in found))


def _is_shown(path: str, prefix: str | None) -> bool:
    return path.startswith(prefix) if prefix else is_checked(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else None))
