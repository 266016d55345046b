"""How right the line is that says, during a LoRA run, what full fine-tuning would take.

    python benchmarks/counterfactual.py --output benchmarks/results/counterfactual.jsonl [--repeats N]

Each cell is a LoRA run of 25 steps, whose prediction is kept, and a full run of the same steps, whose time
(evaluation left out) and peak are the truth. One JSON line a cell is appended.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

STEPS = 25
CELLS = (
    ("paraphrase", "--batch-size", "16"),
    ("sonnet", "--batch-size", "4"),
    ("paraphrase", "--model", "random:gpt2", "--batch-size", "4", "--amp", "bf16"),
    ("paraphrase", "--model", "random:gpt2", "--batch-size", "4", "--amp", "off"),
)


def train(cell: tuple[str, ...], method: tuple[str, ...]) -> tuple[dict[str, Any], float]:
    """Run `explora train` and return its result and the seconds of its steps after the third."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "explora", "train", *cell, *method, "--max-steps", str(STEPS)]
        options = ["-o", f"{folder}/run", "--json", "--quiet"]
        done = subprocess.run([*command, *options], check=True, capture_output=True, text=True)
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [values for values in map(json.loads, lines) if "tokens_per_second" in values]
    speed = [values["tokens_per_second"] for values in steps[3:]]
    tokens = json.loads(done.stdout)["tokens"] / STEPS
    return json.loads(done.stdout), tokens * sum(1 / each for each in speed) / len(speed) * STEPS


def main() -> None:
    """Measure all cells."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=1)
    arguments = parser.parse_args()
    for cell in CELLS * arguments.repeats:
        predicted = train(cell, ("--lora", "8"))[0]["full_fine_tuning"]
        full, seconds = train(cell, ("--full",))
        memory = full["peak_memory_bytes"]
        line = {
            "cell": " ".join(cell),
            "predicted_seconds": predicted["full_seconds"],
            "seconds": seconds,
            "time_error": predicted["full_seconds"] / seconds - 1,
            "predicted_peak_memory_bytes": predicted["full_peak_memory_bytes"],
            "peak_memory_bytes": memory,
            "memory_error": predicted["full_peak_memory_bytes"] / memory - 1,
        }
        with arguments.output.open("a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")
        print(
            f"{line['cell']}: time {line['time_error']:+.1%}, memory {line['memory_error']:+.1%}", flush=True
        )


if __name__ == "__main__":
    main()
