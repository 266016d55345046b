"""The words of the project are plain: no phrase of `tests/words/phrases.toml`, few long sentences."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.words import check
from tests.words.check import Finding, Phrase, findings, main, phrases
from tests.words.passages import Passage, in_help, in_module
from tests.words.sentences import sentences, without_code

MODULE = '''def keep():
    """Keep a run.

    Nobody reads

        all that code.
    """
raise DataError(
    f"{name}: nobody "
    "named the classes"
)
'''

PAGE = """---
license: apache-2.0
---
# A heading of several words is no sentence

One sentence, e.g. this one, by Hu et al. and A. Reader
ends here. `x. y` is one word! Is [a link](https://example.org/a.b) a name?

| a table. | is. | none. |

- An item has 0.5 sentences
- and so has this one

    code = "indented. code"

```console
$ fenced. code
```
<!-- A comment. -->
Last
"""


def found_in(text: str, path: str = "page.md") -> list[Finding]:
    return list(findings(Passage("page", path, 1, text)))


def test_what_is_checked_is_clean(capsys: pytest.CaptureFixture[str]) -> None:
    assert main() == 0, capsys.readouterr().out


@pytest.mark.parametrize("phrase", phrases(), ids=lambda phrase: phrase.find[:30])
def test_a_phrase_is_found_in_its_example(phrase: Phrase) -> None:
    assert phrase in [each.phrase for each in found_in(phrase.example)]
    assert not list(phrase.matches(phrase.use)), "the words to write instead have the phrase in them"


@pytest.mark.parametrize(
    "text",
    [
        "The message shows two tokens per step.",
        "That is all that matters.",
        "It stands in for all that are filled.",
        "There is no folder here.",
        "It works in small steps, and reads the rows a run needs.",
    ],
)
def test_good_english_is_not_found(text: str) -> None:
    assert not found_in(text)


def test_a_phrase_is_found_across_lines_and_with_its_line() -> None:
    [finding] = found_in("The first line.\nIt is worse than the\nfloor.")
    assert str(finding) == "page.md:2: 'the floor'. Write: the score of the best trivial answer"


def test_docstrings_messages_and_pages_are_read() -> None:
    inside = [(each.kind, each.line) for each in in_module("m.py", MODULE) if found_in(each.text)]
    assert inside == [("docstring", 2), ("message", 9)]
    [found] = [each for passage in in_module("m.py", MODULE) for each in findings(passage)][:-1]
    assert (found.line, found.found) == (4, "Nobody")
    assert not found_in(without_code("`all that` and\n\n    all that\n"))


def test_help_is_read() -> None:
    texts = {each.path: each.text for each in in_help()}
    assert "rank" in texts["help: explora train --rank"].lower()
    assert texts["help: explora eval"]


def test_a_comment_excuses_its_line_and_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["<!-- words-ok: a title of a book -->", "Nobody", "nobody", "nobody <!-- words-ok: -->"]
    monkeypatch.setattr(check, "_lines", lambda path: lines)
    assert [each.line for each in found_in("\n".join(lines))] == [3, 4]


def test_sentences_of_a_page() -> None:
    found = [(each.line, each.length, each.text[:12]) for each in sentences(PAGE)]
    assert found == [
        (6, 14, "One sentence"),
        (7, 4, "CODE is one "),
        (7, 5, "Is a link a "),
        (11, 5, "An item has "),
        (12, 5, "and so has t"),
        (20, 1, "Last"),
    ]


def test_long_sentences_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{'word ' * 25}end. {'word ' * 24}end. = = =.\n", encoding="utf-8")
    monkeypatch.setattr(check, "passages", lambda: [])
    monkeypatch.setattr(check, "pages", lambda: [page])
    monkeypatch.setattr(check, "name_of", lambda path: path.name)
    assert main() == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("page.md:1: 26 words: word word")
    assert last.startswith("66.7% of 3 sentences have at most 25 words")
