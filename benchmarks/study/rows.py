"""The rows of the study: JSON lines, one a trained cell, only ever appended to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from explora.core.tasks.metrics import Score, perplexity, share

Row = Mapping[str, Any]


def read_rows(files: Iterable[Path]) -> list[Row]:
    """Return the rows of all files that exist; of a cell that several have, the first.

    The processor seconds of a run on a GPU are left out: they are the host's, and compare with nothing.
    """
    rows: dict[str, Row] = {}
    for file in files:
        for row in read_lines(file):
            on_gpu = {"processor_seconds": None} if row.get("gpu") else {}
            rows.setdefault(row["cell"], {**row, **on_gpu})
    return list(rows.values())


def read_lines(file: Path) -> list[Row]:
    """Return the JSON lines of a file; none where there is no file."""
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def append_row(file: Path, row: Row) -> None:
    """Add a row to a file, which is made where there is none."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(row, ensure_ascii=False) + "\n")


def pack(score: Score) -> dict[str, Any]:
    """Return the score of each example in little space, for paired comparisons.

    For accuracy: the hits as a hexadecimal number, the first example in its highest bit. For perplexity:
    nats and tokens of each example.
    """
    counts = score.by_example
    if score.formula is share:
        bits = "".join(str(int(hit)) for hit in counts[:, 0])
        return {"examples": len(bits), "hits": f"{int(bits, 2):x}"}
    return {"nats": [round(float(nats), 4) for nats in counts[:, 0]], "tokens": counts[:, 1].tolist()}


def unpack(packed: Mapping[str, Any]) -> Score:
    """Return the score that `pack` wrote."""
    if "nats" in packed:
        return perplexity(packed["nats"], packed["tokens"])
    bits = f"{int(packed['hits'], 16):0{packed['examples']}b}"
    hits = np.array([int(bit) for bit in bits])
    return Score(np.array([[0, 1], [1, 1]]), hits, share)


def powers_of(rows: Sequence[Row], stage: str, contender: str) -> set[float]:
    """Return the learning rates that a stage has tried for a contender, as powers."""
    return {row["power"] for row in rows if row["stage"] == stage and row["contender"] == contender}


def best_power(rows: Sequence[Row], stage: str, contender: str) -> float | None:
    """Return the power of the learning rate with the best score on the choosing rows; None without rows.

    Runs that diverged have no score.
    """
    tried = [
        row
        for row in rows
        if row["stage"] == stage and row["contender"] == contender and row["dev"] is not None
    ]
    if not tried:
        return None
    sign = 1 if tried[0]["higher_is_better"] else -1
    power: float = max(tried, key=lambda row: sign * row["dev"])["power"]
    return power
