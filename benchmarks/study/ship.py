"""Write the rows of the study into the package in little space, for `explora bench --advise`.

python -m benchmarks.study.ship          # the rows in benchmarks/results/study/rows.jsonl
python -m benchmarks.study.ship FILE     # other rows

The scores by example stay behind: what is left of them is the standard error of each training's difference
from the best one of the same cell and seed.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from benchmarks.study.plan import Plan, read_plan
from benchmarks.study.results import group_of
from benchmarks.study.rows import Row, read_rows, unpack
from explora.core.advice.study import Trial, points, shipped_file
from explora.core.base.find import open_base
from explora.core.config.registry import EMBEDDED
from explora.core.tasks.paired import PairedScores

ROOT = Path(__file__).parents[2]
ROWS = ROOT / "benchmarks" / "results" / "study" / "rows.jsonl"
COLUMNS = [item.name for item in fields(Trial)]
OF_TRAINING = ("epochs", "batch_size", "learning_rate", "evaluations", "patience")


def pack_study(file: Path) -> dict[str, Any]:
    """Return what the package holds of a file of rows, as JSON data."""
    rows = read_rows([file])
    finished = [row for row in complete(read_plan(), rows) if row["score"] is not None]
    return {
        "source": {
            "file": ROWS.relative_to(ROOT).as_posix(),
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "rows": len(rows),
        },
        "bases": {row["base"]: _base(row) for row in rows},
        "contenders": {row["contender"]: _method(row["settings"]) for row in rows},
        "cells": {group_of(row): _cell(row) for row in finished},
        "columns": COLUMNS,
        "trials": [[getattr(trial, name) for name in COLUMNS] for trial in _trials(finished)],
    }


def complete(plan: Plan, rows: Sequence[Row]) -> list[Row]:
    """Return the rows without those of methods whose sweep of learning rates has not ended.

    A method with a part of its learning rates would look worse than it is.
    """
    recorded = {row["cell"] for row in rows}
    under_way = {
        (stage.name, cell.contender)
        for stage in plan.sweeping()
        for cell in plan.cells(stage, rows)
        if cell.name not in recorded
    }
    return [row for row in rows if (row["stage"], row["contender"]) not in under_way]


def _base(row: Row) -> dict[str, Any]:
    """Return digest and shape; the control base has the shape of the one in the package."""
    return {"digest": row["base_digest"], "shape": asdict(open_base(EMBEDDED).shape)}


def _method(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in OF_TRAINING}


def _cell(row: Row) -> dict[str, Any]:
    settings = row["settings"]
    return {
        "task": row["task"],
        "data": row["data"],
        "base": row["base"],
        "examples": row["examples"],
        "epochs": settings["epochs"],
        "batch_size": settings["batch_size"],
        "amp": row["amp"],
        "length": round(row["tokens"] / row["steps"] / settings["batch_size"], 1),
        "metric": row["metric"],
        "higher_is_better": row["higher_is_better"],
        "trivial": row["trivial"] and round(row["trivial"], 4),
    }


def _trials(rows: Sequence[Row]) -> Iterator[Trial]:
    groups: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in rows:
        groups[group_of(row), row["seed"]].append(row)
    for (cell, _), found in groups.items():
        errors = _errors(found)
        for row, error in zip(found, errors, strict=True):
            forgetting = row.get("forgetting")
            yield Trial(
                cell=cell,
                contender=row["contender"],
                learning_rate=row["settings"]["learning_rate"],
                seed=row["seed"],
                dev=round(row["dev"], 5),
                score=round(row["score"], 5),
                error=round(error, 3),
                forgetting=forgetting and round(forgetting[1] - forgetting[0], 4),
                steps=row["steps"],
                tokens=row["tokens"],
                trainable=row["trainable"],
                processor_seconds=row["processor_seconds"] and round(row["processor_seconds"], 1),
            )


def _errors(rows: Sequence[Row]) -> list[float]:
    """Return the paired standard error of each row's difference from the best, in points."""
    sign = 1 if rows[0]["higher_is_better"] else -1
    best = max(range(len(rows)), key=lambda number: sign * rows[number]["score"])
    covariance = PairedScores([unpack(row["by_example"]) for row in rows]).covariance
    variances = [
        covariance[number, number] + covariance[best, best] - 2 * covariance[number, best]
        for number in range(len(rows))
    ]
    return [
        points(
            math.sqrt(max(0.0, variance)),
            best=rows[best]["score"],
            higher_is_better=rows[0]["higher_is_better"],
        )
        for variance in variances
    ]


def write_study(found: Mapping[str, Any], file: Path) -> None:
    """Write JSON with one training a line, so that a change of the rows is a change of lines."""
    trials = ",\n".join(json.dumps(row, separators=(",", ":")) for row in found["trials"])
    head = json.dumps({**found, "trials": []}, indent=1).removesuffix("[]\n}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{head}[\n{trials}\n]}}\n", encoding="utf-8")


if __name__ == "__main__":
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    if not source.is_file():
        sys.exit(f"error: there is no file {source}: train the study first (make study)")
    write_study(pack_study(source), shipped_file())
    print(f"{shipped_file()}: {shipped_file().stat().st_size / 1e3:.1f} kB")
