"""The rows that the study reads, written as JSON lines, and the bases that it trains."""

from __future__ import annotations

import io
import json
import random
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.study.plan import ALL, CONTROL, Data
from explora.core.config.concerns import DataConfig
from explora.core.data.splits import Row, read_table
from explora.core.files import write_atomically

ROOT = Path(__file__).parent.parent.parent  # git archive takes a path from the root
# The second version of the embedded base, which read plain text alone.
CONTROL_COMMIT = "148404ee8df36f42845579d82993c1d378d2dddb:explora/assets/base"
SHUFFLE_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The files of a data set: train, rows that choose learning rates and steps, rows that report."""

    train: Path
    choose: Path
    report: Path


def write_splits(data: Data, rows: int | str, source: Path, folder: Path) -> Splits:
    """Write the splits of a data set in `source`, the first `rows` training rows of a shuffled order.

    More training rows always include fewer. Nothing is shared between the three files.
    """
    train, dev = (_shuffled(data, source / file) for file in (data.train, data.dev))
    count = data.choose["rows"]
    if data.choose["from"] == "train":
        train, choose = train[:-count], train[-count:]
    else:
        choose, dev = dev[:count], dev[count:]
    chosen = train if rows == ALL else train[: int(rows)]
    return Splits(
        train=_write(folder / f"{data.name}-train-{rows}.jsonl", chosen),
        choose=_write(folder / f"{data.name}-choose.jsonl", choose),
        report=_write(folder / f"{data.name}-report.jsonl", dev[: data.report]),
    )


def _shuffled(data: Data, file: Path) -> list[Row]:
    rows = read_table(str(file), data.task, DataConfig(skip_bad=True)).rows
    random.Random(SHUFFLE_SEED).shuffle(rows)
    return rows


def _write(file: Path, rows: Sequence[Row]) -> Path:
    if not file.is_file():
        lines = [json.dumps(row.values, ensure_ascii=False) + "\n" for row in rows]
        write_atomically(file, "".join(lines))
    return file


def find_base(name: str, folder: Path) -> str:
    """Return what `--model` takes for a base of a plan: its own name, or the folder of the control."""
    if name != CONTROL:
        return name
    target = folder / "control-base"
    if not target.is_dir():
        archive = subprocess.run(
            ["git", "-C", str(ROOT), "archive", CONTROL_COMMIT], capture_output=True, check=True
        )
        partial = folder / "control-base.partial"
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
            tar.extractall(partial, filter="data")
        partial.rename(target)
    return str(target)
