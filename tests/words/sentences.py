"""Split a Markdown page into the sentences that a reader reads.

Code, tables, headings, comments and link targets are not sentences. A span of code counts as one word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

CODE = "CODE"

_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_FENCE = re.compile(r"^( *)(```+|~~~+).*?^ *\2[`~]*$", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
_IMAGE = re.compile(r"!\[[^]]*\]\([^)]*\)")
_LINK = re.compile(r"\[([^]]*)\](\([^)]*\)|\[[^]]*\])")
_URL = re.compile(r"https?://\S+")
_ITEM = re.compile(r"^\s*([-*+]|\d+[.)])\s+")
_END = re.compile(r"[.!?][\"')\]*_]*(?=\s)")
_ABBREVIATION = re.compile(r"(\b(e\.g|i\.e|et al|vs|cf|etc|Fig|No|approx)|\b[A-Z])\.$")


@dataclass(frozen=True)
class Sentence:
    """A sentence and the line of the page on which it starts."""

    line: int
    text: str

    @property
    def length(self) -> int:
        """Number of words. A lone sign, such as `=`, is no word."""
        return sum(any(letter.isalnum() for letter in word) for word in self.text.split())


def without_code(markdown: str) -> str:
    """Replace code, comments and link targets; every line keeps its number."""
    for pattern in (_FRONT_MATTER, _FENCE, _COMMENT):
        markdown = pattern.sub(lambda match: "\n" * match[0].count("\n"), markdown)
    markdown = _without_indented_code(markdown)
    markdown = _SPAN.sub(lambda match: CODE + "\n" * match[0].count("\n"), markdown)
    markdown = _IMAGE.sub("", markdown)
    markdown = _LINK.sub(r"\1", markdown)
    return _URL.sub(CODE, markdown)


def sentences(markdown: str) -> Iterator[Sentence]:
    """Yield the sentences of a page in order."""
    for line, text in _blocks(without_code(markdown)):
        yield from _split(line, text)


def _without_indented_code(markdown: str) -> str:
    """Blank each block that follows an empty line and is indented by four columns or more."""
    kept = []
    may_start = True
    for line in markdown.split("\n"):
        is_code = may_start and line.startswith("    ") and not _ITEM.match(line)
        kept.append("" if is_code else line)
        may_start = is_code or not line.strip()
    return "\n".join(kept)


def _blocks(text: str) -> Iterator[tuple[int, str]]:
    """Yield the paragraphs and list items with their first line."""
    start, lines = 0, list[str]()
    for number, line in enumerate(text.split("\n"), 1):
        ends = not line.strip() or line.lstrip().startswith(("#", "|"))
        if (ends or _ITEM.match(line)) and lines:
            yield start, "\n".join(lines)
            lines = []
        if not ends:
            start = start if lines else number
            lines.append(_ITEM.sub("", line) if not lines else line)
    if lines:
        yield start, "\n".join(lines)


def _split(line: int, block: str) -> Iterator[Sentence]:
    """Cut a block after each full stop, question mark and exclamation mark."""
    start = 0
    for end in _END.finditer(block):
        if _ABBREVIATION.search(block[start : end.start() + 1]):
            continue
        yield _sentence(line, block, start, end.end())
        start = end.end()
    if block[start:].strip():
        yield _sentence(line, block, start, len(block))


def _sentence(line: int, block: str, start: int, end: int) -> Sentence:
    skipped = len(block[start:end]) - len(block[start:end].lstrip())
    return Sentence(line + block[: start + skipped].count("\n"), " ".join(block[start:end].split()))
