"""Predicted against measured peak memory: a process a cell, rows filled, two steps.

    python benchmarks/memory.py benchmarks/results/memory.jsonl --run     # measures what the file lacks
    python benchmarks/memory.py benchmarks/results/memory.jsonl           # the table, predicted anew

The constants of explora/core/estimate/memory.py were fitted to the first cells; the others were chosen
and measured when they were fixed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from explora.core.base.find import shape_of
from explora.core.bench.measurements import Cell
from explora.core.config.precedence import resolve
from explora.core.config.run_config import TrainRun
from explora.core.estimate.memory import predict
from explora.core.machine.facts import describe_machine, peak_memory_bytes
from explora.core.machine.malloc import TUNABLES

STEPS = 2  # the optimizer's state is made in the first
THREADS = 2
MIB = 1 << 20

METHODS: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "lora 8": {"method": "lora", "rank": 8, "targets": ("key", "value")},
    "lora 16, all six": {
        "method": "lora",
        "rank": 16,
        "targets": ("query", "key", "value", "attn-out", "mlp-up", "mlp-down"),
    },
    "last-linear": {"method": "last-linear"},
    "bitfit": {"method": "bitfit"},
    "miss 16, all six": {
        "method": "miss",
        "rank": 16,
        "targets": ("query", "key", "value", "attn-out", "mlp-up", "mlp-down"),
    },
    "top 2": {"method": "top", "blocks": 2},
    "dora 8": {"method": "dora", "rank": 8, "targets": ("key", "value")},
    "dora 16, all six": {
        "method": "dora",
        "rank": 16,
        "targets": ("query", "key", "value", "attn-out", "mlp-up", "mlp-down"),
    },
}

# model, task, method, batch x length, amp, checkpointing
CELLS = """
random:gpt2 | paraphrase | lora 8           | 8 x 64   | bf16 |
random:gpt2 | paraphrase | lora 8           | 8 x 128  | off  |
random:gpt2 | paraphrase | lora 8           | 4 x 256  | bf16 |
random:gpt2 | paraphrase | lora 8           | 2 x 1024 | bf16 |
random:gpt2 | paraphrase | lora 8           | 1 x 1024 | off  |
random:gpt2 | paraphrase | lora 8           | 8 x 128  | bf16 | checkpointing
random:gpt2 | paraphrase | lora 8           | 1 x 1024 | bf16 | checkpointing
random:gpt2 | text       | lora 16, all six | 4 x 128  | bf16 |
random:gpt2 | text       | lora 16, all six | 2 x 256  | off  |
random:gpt2 | text       | lora 16, all six | 1 x 1024 | bf16 |
random:gpt2 | text       | lora 16, all six | 1 x 1024 | off  | checkpointing
random:gpt2 | text       | lora 16, all six | 8 x 256  | bf16 | checkpointing
random:gpt2 | paraphrase | lora 16, all six | 8 x 64   | off  |
random:gpt2 | paraphrase | lora 16, all six | 4 x 256  | bf16 |
random:gpt2 | paraphrase | full             | 8 x 64   | bf16 |
random:gpt2 | paraphrase | full             | 2 x 256  | off  |
random:gpt2 | paraphrase | full             | 4 x 128  | bf16 | checkpointing
random:gpt2 | paraphrase | full             | 1 x 1024 | bf16 |
random:gpt2 | text       | full             | 2 x 128  | bf16 |
random:gpt2 | text       | full             | 1 x 512  | off  |
random:gpt2 | text       | full             | 1 x 1024 | bf16 | checkpointing
random:gpt2 | paraphrase | last-linear      | 8 x 128  | bf16 |
random:gpt2 | paraphrase | last-linear      | 16 x 64  | off  |
random:gpt2 | paraphrase | last-linear      | 2 x 1024 | bf16 |
random:gpt2 | sentiment  | last-linear      | 4 x 512  | off  |
random:gpt2 | sentiment  | full             | 4 x 128  | off  | checkpointing
random:gpt2 | sonnet     | lora 8           | 4 x 160  | bf16 |
random:gpt2 | sentiment  | lora 16, all six | 2 x 512  | off  | checkpointing
embedded    | paraphrase | full             | 32 x 64  | bf16 |
embedded    | paraphrase | lora 8           | 32 x 128 | bf16 |
embedded    | text       | full             | 16 x 256 | bf16 |
embedded    | text       | lora 16, all six | 8 x 512  | off  |
embedded    | paraphrase | last-linear      | 64 x 128 | bf16 |
"""


HELD_OUT = """
random:gpt2       | paraphrase | lora 8           | 16 x 64  | off  |
random:gpt2       | paraphrase | lora 8           | 32 x 40  | bf16 |
random:gpt2       | sentiment  | lora 16, all six | 8 x 128  | bf16 |
random:gpt2       | sonnet     | lora 16, all six | 8 x 192  | bf16 |
random:gpt2       | sonnet     | full             | 2 x 200  | bf16 |
random:gpt2       | paraphrase | full             | 16 x 32  | bf16 | checkpointing
random:distilgpt2 | paraphrase | lora 8           | 4 x 512  | bf16 |
random:distilgpt2 | text       | full             | 2 x 256  | off  |
random:distilgpt2 | sentiment  | last-linear      | 8 x 256  | off  |
embedded          | sentiment  | lora 16, all six | 16 x 300 | bf16 | checkpointing
random:gpt2       | paraphrase | bitfit           | 8 x 128  | bf16 |
random:gpt2       | text       | bitfit           | 2 x 256  | off  |
random:gpt2       | paraphrase | miss 16, all six | 8 x 128  | off  |
random:gpt2       | text       | miss 16, all six | 4 x 128  | bf16 |
random:gpt2       | paraphrase | top 2            | 8 x 128  | bf16 |
random:gpt2       | text       | top 2            | 2 x 256  | off  |
random:gpt2       | sentiment  | top 2            | 4 x 512  | bf16 | checkpointing
random:gpt2       | text       | top 2            | 8 x 256  | bf16 | checkpointing
random:gpt2       | paraphrase | bitfit           | 8 x 128  | bf16 | checkpointing
random:gpt2       | paraphrase | dora 8           | 8 x 128  | bf16 |
random:gpt2       | paraphrase | dora 16, all six | 8 x 128  | off  |
random:gpt2       | text       | dora 16, all six | 4 x 128  | bf16 |
random:gpt2       | text       | dora 16, all six | 2 x 512  | off  |
random:gpt2       | text       | dora 16, all six | 8 x 256  | bf16 | checkpointing
"""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One cell, as it is written above."""

    name: str
    run: TrainRun
    length: int
    is_held_out: bool


def settings() -> Iterator[Setting]:
    """Yield the cells."""
    fitted, held_out = CELLS.strip().splitlines(), HELD_OUT.strip().splitlines()
    for place, line in enumerate([*fitted, *held_out]):
        model, task, method, size, amp, checkpointing = (part.strip() for part in line.split("|"))
        batch, length = (int(number) for number in size.split("x"))
        options = METHODS[method] | {
            "model": model,
            "batch_size": batch,
            "max_length": length,
            "amp": amp,
            "grad_checkpoint": bool(checkpointing),
            "device": "cpu",
            "threads": THREADS,
        }
        run, _ = resolve(task, options)
        name = ", ".join(part.strip() for part in line.split("|") if part.strip())
        yield Setting(name=name, run=run, length=length, is_held_out=place >= len(fitted))


def main() -> int:
    """Measure what is missing, or show what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--run", action="store_true")
    parser.add_argument("--cell", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.cell:
        print(json.dumps(take_steps(Cell.from_json(json.load(sys.stdin)))))
        return 0
    lines = asked.file.read_text(encoding="utf-8").splitlines() if asked.file.exists() else []
    found = {row["cell"]: row for row in map(json.loads, lines)}
    for setting in settings() if asked.run else ():
        if setting.name not in found:
            found[setting.name] = measure(setting)
            with asked.file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(found[setting.name]) + "\n")
    print(table(found))
    return 0


def measure(setting: Setting) -> dict[str, Any]:
    """Take two steps in a fresh process."""
    cell = Cell(run=setting.run, length=setting.length, steps=STEPS, seconds=0.0)
    command = [sys.executable, __file__, "-", "--cell"]
    done = subprocess.run(
        command,
        input=json.dumps(cell.to_json()),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, **TUNABLES},
    )
    facts = {"commit": commit(), "machine": describe_machine(), "run": setting.run.to_json()}
    return {"cell": setting.name, **json.loads(done.stdout), **facts}


def commit() -> str:
    """The commit, with a plus where the package differs from it."""
    here = ["git", "-C", str(Path(__file__).parent)]
    name = subprocess.check_output([*here, "rev-parse", "--short=12", "HEAD"], text=True).strip()
    changed = subprocess.check_output([*here, "status", "--porcelain", "--", ":/explora"], text=True)
    return name + ("+" if changed else "")


def take_steps(cell: Cell) -> dict[str, int]:
    """Be that process: VmHWM once torch is loaded, once the model is, and after the steps."""
    from explora.core.bench.cell_process import ClockedTraining, open_cell

    baseline = peak_memory_bytes()
    session, run, examples = open_cell(cell)
    training = ClockedTraining(session, run, examples)
    opened = peak_memory_bytes()
    for _ in range(STEPS):
        training.step()
    return {
        "baseline_memory_bytes": baseline,
        "opened_memory_bytes": opened,
        "peak_memory_bytes": peak_memory_bytes(),
    }


def table(found: dict[str, dict[str, Any]]) -> str:
    """Return a Markdown table, predicted anew, and the errors in words."""
    header = ("cell", "measured, MiB", "predicted, MiB", "error", "")
    lines = [" | ".join(header), "|".join(["---"] * len(header))]
    errors: dict[bool, list[float]] = {False: [], True: []}
    for setting in settings():
        if setting.name not in found:
            continue
        measured = found[setting.name]["peak_memory_bytes"]
        predicted = predict(setting.run, shape_of(setting.run.model), setting.length, evaluates=False).peak
        error = predicted / measured - 1
        errors[setting.is_held_out].append(error)
        cells = (setting.name, f"{measured / MIB:,.0f}", f"{predicted / MIB:,.0f}", f"{100 * error:+.1f} %")
        lines.append(" | ".join([*cells, "held out" if setting.is_held_out else ""]))
    summaries = [
        summary("all", [*errors[False], *errors[True]]),
        summary("fitted", errors[False]),
        summary("held out", errors[True]),
    ]
    return "\n".join([*(f"| {line} |" for line in lines), "", *summaries])


def summary(what: str, errors: Sequence[float]) -> str:
    """Return median and worst error, and how many are too low."""
    if not errors:
        return f"{what}: nothing measured"
    sizes = [abs(error) for error in errors]
    low = [error for error in errors if error < 0]
    worst_low = f", at most by {-100 * min(low):.1f} %" if low else ""
    return (
        f"{what}, {len(errors)} cells: median error {100 * median(sizes):.1f} %, "
        f"worst {100 * max(sizes):.1f} %; predicted too low in {len(low)}{worst_low}."
    )


if __name__ == "__main__":
    sys.exit(main())
