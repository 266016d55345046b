"""The commands that the documentation shows exist, and the output that it shows was really printed.

A ```console block with output carries a comment above it, which tells where the output comes from:

    <!-- run: test -->                       this test runs the block
    <!-- made by: COMMAND, DATE, CPU -->     a run that takes too long for a test, or needs more than samples

In a block that is run, lines of output are compared with every number replaced; a line `...` stands for any
lines. Commands other than `explora` go to the shell.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from markdown_it import MarkdownIt

from explora import console
from explora.cli import _flags, app, main
from explora.commands._synonyms import normalise

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROMPT = "$ "
MADE_BY = re.compile(r"<!-- made by: .+, \d{4}-\d{2}-\d{2}, .+ -->")
RUN = "<!-- run: test -->"
NUMBER = re.compile(r"\d[\d,]*(\.\d+)?(e-?\d+)?")


@dataclass(frozen=True)
class Block:
    """A block of commands, with the comment above it."""

    place: str
    lines: list[str]
    comment: str

    @property
    def commands(self) -> list[str]:
        """The lines after a prompt, without it."""
        return [line.removeprefix(PROMPT) for line in self.lines if line.startswith(PROMPT)]

    @property
    def has_output(self) -> bool:
        """Whether it shows more than commands."""
        return len(self.commands) < len(self.lines)


def blocks_of(page: Path) -> Iterator[Block]:
    """Yield the ```console blocks of a page."""
    comment = ""
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type == "fence" and token.info == "console":
            place = f"{page.relative_to(ROOT).as_posix()}:{token.map[0] + 1}"
            yield Block(place, token.content.splitlines(), comment)
        comment = token.content.strip() if token.type == "html_block" else ""


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def explora_calls(command: str) -> Iterator[list[str]]:
    """Yield the arguments of each `explora` in a line of shell, without redirections."""
    words = shlex.shlex(command, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    call: list[str] = []
    for word in [*words, ";"]:
        if not set(word) <= set("();<>|&"):
            call.append(word)
            continue
        if call[:1] == ["explora"]:
            yield call[1:]
        call = []


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_every_command_is_one_that_explora_takes(block):
    root = typer.main.get_command(app)
    for command in block.commands:
        for call in explora_calls(command):
            name, *arguments = normalise(call, _flags(root))
            if name not in root.list_commands(None):
                assert name in {option for each in root.params for option in each.opts}, command
                continue
            root.commands[name].make_context(name, arguments)  # raises for what it does not take
    console.set_quiet(False)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_shown_output_tells_where_it_comes_from(block):
    if block.has_output:
        assert block.comment == RUN or MADE_BY.fullmatch(block.comment), __doc__


@pytest.mark.parametrize(
    "block", [each for each in BLOCKS if each.comment == RUN], ids=lambda block: block.place
)
def test_shown_output_is_what_explora_prints(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = [line for command in block.commands for line in [PROMPT + command, *output_of(command)]]
    pattern = "\n".join(".*" if line == "..." else re.escape(without_numbers(line)) for line in block.lines)
    assert re.fullmatch(pattern, without_numbers("\n".join(printed)), re.DOTALL), "\n".join(printed)


def output_of(command: str) -> list[str]:
    """Return the lines that a command writes to both streams, in their order."""
    words = shlex.split(command, comments=True)
    if words[0] != "explora":
        return subprocess.run(
            command, shell=True, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ).stdout.splitlines()
    with io.StringIO() as both, contextlib.redirect_stdout(both), contextlib.redirect_stderr(both):
        main(words[1:])
        return both.getvalue().splitlines()


def without_numbers(text: str) -> str:
    """Return `text` with every number replaced by 0 and every run of spaces by one."""
    return re.sub(r" +", " ", NUMBER.sub("0", text))


def test_an_option_that_does_not_exist_is_found():
    block = Block("here", ["$ cat prompts.txt | explora train paraphrase --lorra 8 > out  # no"], "")
    with pytest.raises(typer.TyperException, match="--lorra"):
        test_every_command_is_one_that_explora_takes(block)


@pytest.mark.parametrize("line", ["error: another message", "hint: `--rank 2`"])
def test_a_line_that_is_not_printed_is_found(line, tmp_path, monkeypatch):
    block = Block("here", ["$ explora params --lora 0", line], RUN)
    with pytest.raises(AssertionError):
        test_shown_output_is_what_explora_prints(block, tmp_path, monkeypatch)
