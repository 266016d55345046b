"""The study: when does LoRA, or another method, pay off?

python -m benchmarks.study list --data DATA                  # the cells that are left, and their price
python -m benchmarks.study run --data DATA --hours 4         # train them, in order, and append their rows
python -m benchmarks.study run --data DATA --shard 1/2 --output part-1.jsonl

DATA is a folder with the files of CS224N: quora, sst, cfimdb and sonnets. The same command goes on where it
stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.study.plan import read_plan
from benchmarks.study.run import Places, Session, Study
from explora.core.config.concerns import RuntimeConfig
from explora.errors import ExploraError

RESULTS = Path(__file__).parent.parent / "results" / "study"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["list", "run"])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--output", type=Path, default=RESULTS / "rows.jsonl", help="file of rows; it grows")
    parser.add_argument("--others", type=Path, nargs="*", default=[], help="rows of other machines or shards")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "explora-study",
        help="scratch folder: splits, bases, runs in progress",
    )  # fmt: skip
    parser.add_argument("--stages", nargs="*", help="some stages of plan.toml (default: all, in order)")
    parser.add_argument("--hours", type=float, default=1000.0, help="stop after so many hours")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, one thread each (default: 2)")
    parser.add_argument("--shard", default="1/1", help="part I of N: I/N")
    parser.add_argument("--device", default="auto")
    asked = parser.parse_args(arguments)
    part, _, parts = asked.shard.partition("/")
    plan = read_plan()
    places = Places(source=asked.data, work=asked.work, output=asked.output, others=tuple(asked.others))
    session = Session(
        jobs=asked.jobs,
        deadline=time.monotonic() + 3600 * asked.hours,
        shard=(int(part), int(parts)),
        runtime=RuntimeConfig(device=asked.device, threads=1),
    )
    try:
        study = Study(plan, places, session)
        for line in study.run(asked.stages or [stage.name for stage in plan.stages]):
            print(time.strftime("%H:%M:%S"), line, flush=True)
    except ExploraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
