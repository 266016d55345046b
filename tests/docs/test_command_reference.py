"""docs/commands.md lists the options that the application has.

A process of its own, because the tests register a task and a method that explora does not have.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_up_to_date():
    page = subprocess.run(
        [sys.executable, DOCS / "command_reference.py"],
        cwd=DOCS.parent,
        env={"PYTHONPATH": str(DOCS.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert page.stdout == (DOCS / "commands.md").read_text(encoding="utf-8"), "run: make reference"
