"""Train the cells of the study on one GPU: several chains of stages at once, each in a process of its own.

    python3 benchmarks/gpu/study.py DATA OUT --minutes 7
    python3 benchmarks/gpu/study.py DATA OUT --chain quora-rates quora-seeds --chain sst-rates

A small model leaves most of a GPU idle, so many runs share it. A stage that needs the learning rates of
another one comes later, in the same chain or in another one. Each chain appends to a file of its own in OUT.
The same command continues a study that was stopped.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHAINS = (
    (
        "quora-rates",
        "quora-seeds",
        "quora-all",
        "quora-all-rates",
        "quora-finer-rates",
        "quora-3-epochs",
        "quora-targets",
    ),
    (
        "sst-rates",
        "sst-seeds",
        "sst-finer-rates",
        "sst-4-epochs",
        "sst-250",
        "sst-1000",
        "sst-others",
        "sst-others-seeds",
    ),
    (
        "sonnets-rates",
        "sonnets-seeds",
        "sonnets-targets",
        "sonnets-others",
        "sonnets-others-seeds",
        "cfimdb-rates",
        "cfimdb-seeds",
    ),
    (
        "control-rates",
        "control-seeds",
        "quora-others",
        "quora-others-seeds",
        "quora-1000",
        "quora-250",
        "quora-16000",
        "quora-convergence",
    ),
    ("sst-batch-64", "sst-batch-8", "sst-batch-4"),
)
GRACE = 20.0  # seconds for runs to save their state


def main() -> int:
    """Start every chain, and wait until all have ended or the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the data sets")
    parser.add_argument("out", type=Path, help="folder of the rows, rows-1.jsonl and so on, and of the logs")
    parser.add_argument("--minutes", type=float, default=7.0, help="time limit (default: 7)")
    parser.add_argument(
        "--chain",
        nargs="+",
        action="append",
        metavar="STAGE",
        help="a chain of stages (default: all of them)",
    )
    parser.add_argument("--jobs", type=int, default=4, help="runs at once in each chain (default: 4)")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--plan", type=Path, default=ROOT / "benchmarks" / "study" / "plan.toml")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "build" / "study", help="folder for what can be lost"
    )
    parser.add_argument("--commit", help="commit of the code, where it is not a git repository")
    asked = parser.parse_args()
    asked.chain = asked.chain or CHAINS
    asked.out.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 60 * asked.minutes
    chains = [start(number, asked) for number in range(len(asked.chain))]
    for chain in chains:
        try:
            chain.wait(max(0.0, until + GRACE - time.monotonic()))
        except subprocess.TimeoutExpired:
            chain.kill()
            chain.wait()
    return max(abs(chain.returncode) for chain in chains)


def start(number: int, asked: argparse.Namespace) -> subprocess.Popen[bytes]:
    """Start a chain. It knows the rows of the others, so that no cell is trained twice."""
    files = [asked.out / f"rows-{each + 1}.jsonl" for each in range(len(asked.chain))]
    own = files.pop(number)
    command = [sys.executable, "-m", "benchmarks.study", "run", "--data", asked.data, "--work", asked.work]
    command += ["--plan", asked.plan, "--rows", own, "--others", *files, "--stages", *asked.chain[number]]
    command += ["--jobs", asked.jobs, "--hours", asked.minutes / 60, "--device", asked.device]
    command += ["--commit", asked.commit] if asked.commit else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with own.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            [str(each) for each in command], cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
        )


if __name__ == "__main__":
    sys.exit(main())
