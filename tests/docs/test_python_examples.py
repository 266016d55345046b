"""The examples of docs/python-api.md run as they stand, one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

import explora
from explora.core.sweeps.jobs import Jobs, Report

PAGE = Path(__file__).parents[2] / "docs" / "python-api.md"


def train_here(jobs: Jobs) -> Iterator[Report]:
    """Train the cells of a sweep in this process: starting others would take longer than all examples."""
    for order in jobs._orders:
        yield Report(name=order.name, event="started", facts={})
        deque(explora.train(order.run, order.folder), maxlen=0)
        yield Report(name=order.name, event="finished", facts={})


def test_the_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Jobs, "events", train_here)
    names: dict[str, Any] = {}
    tokens = MarkdownIt().parse(PAGE.read_text(encoding="utf-8"))
    for block in [token for token in tokens if token.type == "fence" and token.info == "python"]:
        lines = "\n" * (block.map[0] + 1)  # so that a traceback names the line of the page
        exec(compile(lines + block.content, PAGE, "exec"), names)
    printed = capsys.readouterr().out
    for fact in ("step 10 of 10", "dev accuracy", "95 % interval", "lora-r4 finished", "rank must be"):
        assert fact in printed
