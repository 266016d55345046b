"""Draw a session in a terminal as an SVG: run commands and record what they print. Needs bash and Linux.

python benchmarks/session.py docs/pictures/session.svg
"""

from __future__ import annotations

import argparse
import io
import os
import pty
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from errors import BenchmarkError
from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

REVIEW = '{"sentence": "A warm, funny film with a wonderful cast."}'
COMMANDS = (
    "explora train sentiment --lora 8",
    "explora eval sentiment",
    f"echo '{REVIEW}' | explora eval sentiment --data -",
)
WIDTH = 100  # columns
CLEAR_LINE = "\r\x1b[K"
# Times and speeds depend on the machine and on other programs, so the picture leaves them out.
TIMES = re.compile(r"\d+:\d\d(:\d\d)?|[\d,]+(?= tokens/s)")
# rich links to a font on a server. A picture in a README must not load anything.
WEB_FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the session and draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("svg", type=Path)
    asked = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as folder:
            session = [(command, screen(run(command, folder))) for command in COMMANDS]
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    asked.svg.write_text(draw(session), encoding="utf-8")
    return 0


def run(command: str, folder: str) -> str:
    """Return what a shell command writes to a terminal. Raises BenchmarkError if the command fails."""
    explora = f'explora() {{ {shlex.quote(sys.executable)} -m explora "$@"; }}'
    environment = os.environ | {"COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
    terminal, its_end = pty.openpty()
    with subprocess.Popen(
        ["bash", "-c", f"{explora}\n{command}"], stdout=its_end, stderr=its_end, cwd=folder, env=environment
    ) as process:
        os.close(its_end)
        written = b"".join(_pieces(terminal)).decode()
        os.close(terminal)
    if process.returncode:
        raise BenchmarkError(f"{command} ended with exit code {process.returncode}: {written}")
    return written


def _pieces(terminal: int) -> Iterator[bytes]:
    try:
        while piece := os.read(terminal, 4096):
            yield piece
    except OSError:  # how Linux reports that the other end is closed
        return


def screen(written: str) -> str:
    """Return what remains on the screen, without times. Of a line that was drawn again, the last remains."""
    lines = written.replace("\r\n", "\n").rstrip("\n").split("\n")
    return TIMES.sub("…", "\n".join(line.rpartition(CLEAR_LINE)[2] for line in lines))


def draw(session: Sequence[tuple[str, str]]) -> str:
    """Return the SVG of commands and what they left on the screen."""
    console = Console(
        record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    for number, (command, shown) in enumerate(session):
        console.print(Text.assemble("\n" * bool(number), ("$ ", "green"), (command, "bold")))
        console.print(Text.from_ansi(shown))
    svg = console.export_svg(title="explora", theme=DIMMED_MONOKAI, unique_id="session")
    return WEB_FONTS.sub("", svg)


if __name__ == "__main__":
    sys.exit(main())
