"""Measure speed and peak memory of the contenders: the cost cells of the plan that have no rows yet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

RECORD = Path(__file__).parent.parent / "record.py"
SEED = "1"


def measure_costs(cells: Sequence[str], source: Path, output: Path) -> Iterator[str]:
    """Run `explora bench` for each cell and append its rows; yield the verdict of each."""
    known = _commands(output)
    for options in cells:
        words = [*options.split(), "--seed", SEED]
        if " ".join(["explora", "bench", *words]) in known:
            continue
        done = subprocess.run(
            [sys.executable, str(RECORD), str(output.resolve()), "--", *words],
            cwd=source,  # so that the recorded command has no absolute path
            env={**os.environ, "EXPLORA_DATA": str(source.resolve())},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        yield done.stdout.strip()


def _commands(file: Path) -> set[str]:
    if not file.is_file():
        return set()
    return {json.loads(line)["command"] for line in file.read_text(encoding="utf-8").splitlines()}
