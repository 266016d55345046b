"""Run `explora bench` and append one JSON line a row to a file: what, where, when, with which code.

python benchmarks/record.py benchmarks/results/NAME.jsonl -- paraphrase --model random:gpt2 --peer
python benchmarks/record.py benchmarks/results/NAME.jsonl            # the file as a Markdown table
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from results import commit

HEADER = (
    "what", "stack", "tokens/s", "range", "of explora's", "memory, MiB", "of explora's", "of matrix peak",
    "processors busy elsewhere",
)  # fmt: skip


def main() -> int:
    """Measure and append, or, without a command, show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("command", nargs="*", help="what follows `explora bench`")
    asked = parser.parse_args()
    if not asked.command:
        print(table([json.loads(line) for line in asked.file.read_text(encoding="utf-8").splitlines()]))
        return 0
    command = ["explora", "bench", *asked.command]
    done = subprocess.run(
        [sys.executable, "-m", *command, "--json"], stdout=subprocess.PIPE, text=True, check=True
    )
    result = json.loads(done.stdout)
    facts = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "command": " ".join(command),
        "machine": result["machine"],
    }
    asked.file.parent.mkdir(parents=True, exist_ok=True)
    with asked.file.open("a", encoding="utf-8") as lines:
        lines.writelines(json.dumps({**facts, **row}, ensure_ascii=False) + "\n" for row in result["rows"])
    print(result["verdict"])
    return 0


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table; another stack's row is also a multiple of ours before it.

    Ours is the row of the same method and rank, the last one that was measured before.
    """
    lines = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
    own: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        key = (row["method"], row["rank"], row["amp"])
        if row["stack"] == "explora":
            own[key] = row
        lines.append("| " + " | ".join(_cells(row, {} if row["stack"] == "explora" else own[key])) + " |")
    return "\n".join(lines)


def _cells(row: dict[str, Any], own: dict[str, Any]) -> tuple[str, ...]:
    precision = "fp32" if row["amp"] == "off" else row["amp"]
    what = f"{row['task']}, {row['name']}, batch {row['batch_size']}, {precision}"
    if row["error"]:
        return (what, row["stack"], row["error"], *[""] * (len(HEADER) - 3))
    low, high = row["spread"]["tokens_per_second"]
    times = f"{row['tokens_per_second'] / own['tokens_per_second']:.3f}" if own else ""
    memory = f"{row['peak_memory_bytes'] / own['peak_memory_bytes']:.2f}" if own else ""
    return (
        what,
        row["stack"],
        f"{row['tokens_per_second']:,.0f}",
        f"{low:,.0f} to {high:,.0f}",
        times,
        f"{row['peak_memory_bytes'] / 2**20:,.0f}",
        memory,
        f"{100 * row['matrix_share']:.0f} %",
        f"{row['machine']['busy_elsewhere']:.1f} of {row['machine']['processors']}",
    )


if __name__ == "__main__":
    sys.exit(main())
