"""Read the ```console blocks of the pages, and run those that say so: `make reference` writes their output.

A block that shows output has a comment on the line above it, which tells where the output comes from:

    <!-- run: test -->                       the block is run, on the sample data
    <!-- made by: COMMAND, DATE, CPU -->     a run that takes too long, or needs more than the sample data

In a block that is run, a line `...` stands for any lines, and every number equals every other.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

from explora.cli import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROMPT = "$ "
RUN = "<!-- run: test -->"
MADE_BY = re.compile(r"<!-- made by: .+, \d{4}-\d{2}-\d{2}, .+ -->")
NUMBER = re.compile(r"\d[\d,]*(\.\d+)?(e-?\d+)?")


@dataclass(frozen=True)
class Block:
    """A ```console block. `place` is its page and line, `comment` the HTML comment above it."""

    place: str
    text: str
    comment: str = ""

    @property
    def commands(self) -> list[str]:
        """The lines after a prompt, without it."""
        return [line.removeprefix(PROMPT) for line in self.text.splitlines() if line.startswith(PROMPT)]

    @property
    def has_output(self) -> bool:
        """Whether the block shows more than commands."""
        return len(self.commands) < len(self.text.splitlines())

    def shows(self, printed: str) -> bool:
        """Whether the block shows what was printed, apart from numbers, widths and left out lines."""
        lines = (
            "(.*\n)*?" if line == "..." else re.escape(f"{line}\n") for line in _plain(self.text).splitlines()
        )
        return re.fullmatch("".join(lines), _plain(printed)) is not None


def blocks_of(page: Path) -> Iterator[Block]:
    """Yield the ```console blocks of a page."""
    comment = ""
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type == "fence" and token.info == "console" and token.map:
            yield Block(f"{page.relative_to(ROOT).as_posix()}:{token.map[0] + 1}", token.content, comment)
        comment = token.content.strip() if token.type == "html_block" else ""


def run(block: Block) -> str:
    """Run the commands of a block in the current directory; return what a terminal would show."""
    return "".join(f"{PROMPT}{command}\n{_output_of(command)}" for command in block.commands)


def _output_of(command: str) -> str:
    words = shlex.split(command, comments=True)
    if words[0] != "explora":
        return subprocess.check_output(command, shell=True, text=True, stderr=subprocess.STDOUT)
    with io.StringIO() as both, contextlib.redirect_stdout(both), contextlib.redirect_stderr(both):
        main(words[1:])
        return both.getvalue()


def _plain(text: str) -> str:
    """Return `text` with every number replaced by 0, and runs of spaces by one."""
    return re.sub(r" +", " ", NUMBER.sub("0", text))


def _update(page: Path) -> None:
    """Write what is printed now in place of shown output that differs from it."""
    for block in blocks_of(page):
        if block.comment != RUN:
            continue
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            now = _by_command(run(block))
        shown = _by_command(block.text)
        text = "".join(old if Block("", old).shows(new) else new for old, new in zip(shown, now, strict=True))
        if text != block.text:
            page.write_text(page.read_text(encoding="utf-8").replace(block.text, text), encoding="utf-8")
            print(f"{block.place} has changed")


def _by_command(text: str) -> list[str]:
    """Divide a block into its commands, each with its output."""
    return re.split(r"^(?=\$ )", text, flags=re.MULTILINE)


if __name__ == "__main__":
    for page in PAGES:
        _update(page)
