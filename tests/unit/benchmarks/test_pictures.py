"""The pictures of the documentation show what the commands print now, and the figures of the result files."""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PICTURES = ROOT / "docs" / "pictures"
sys.path.append(str(ROOT / "benchmarks"))

import session  # noqa: E402
import speed_and_memory  # noqa: E402

BARS = re.compile("[▁▂▃▄▅▆▇█━]")
MACHINE = re.compile(r"\b(cpu|cuda|mps|bf16|fp16|fp32)\b")
PROGRESS = re.compile(r"train \d+/\d+")  # a terminal draws a bar instead


def texts(svg: Path) -> list[str]:
    found = re.findall(r"<text[^>]*>([^<]*)</text>", svg.read_text(encoding="utf-8"))
    return [html.unescape(text).replace("\N{NO-BREAK SPACE}", " ") for text in found]


def plain(text: str) -> str:
    """Return the words of a text without bars, numbers, and words that depend on the machine."""
    words = session.TIMES.sub("…", BARS.sub("", text))
    words = MACHINE.sub("", words).replace("threads", "thread")
    words = re.sub(r"\b[kMG]B\b", "B", words)  # a test process that did other work before has a higher peak
    return " ".join(re.sub(r"\d[\d.,]*", "0", words).split())


def test_the_session_shows_what_the_commands_print_now(explora):
    shown = plain(" ".join(texts(PICTURES / "session.svg")))
    for command in session.COMMANDS:
        assert plain(f"$ {command}") in shown
    train, evaluate, _ = session.COMMANDS
    for command in (f"{train} --max-steps 1", evaluate):
        printed = explora(*command.split()[1:])
        assert printed.code == 0
        for line in (printed.err + printed.out).splitlines():
            if not PROGRESS.match(line) and not line.startswith("warning"):  # one step learns nothing
                assert plain(line) in shown, f"{line!r} is not in the picture: run make pictures"


def test_a_bar_that_was_drawn_again_remains_once():
    drawn = "a note\r\n\r\x1b[Kbar 1/2\r\x1b[Kbar 2/2  1:05 left  3,210 tokens/s\r\nend\r\n"
    assert session.screen(drawn) == "a note\nbar 2/2  … left  … tokens/s\nend"


def test_a_command_that_fails_is_an_error(tmp_path):
    with pytest.raises(session.BenchmarkError, match="ended with exit code 3: no"):
        session.run("echo no; exit 3", str(tmp_path))


def test_the_plot_shows_the_figures_of_the_result_files():
    shown = texts(PICTURES / "speed-and-memory.svg")
    for work in speed_and_memory.trainings():
        for text in (work.label, *speed_and_memory.speeds(work), *speed_and_memory.memories(work)):
            assert " ".join(text.split()) in [" ".join(each.split()) for each in shown], "run make pictures"
