"""Measure the cells of suite.toml, explora and its peer in turns, and append one JSON line a measurement.

python benchmarks/run.py --data-root DIR --output benchmarks/results/NAME.jsonl    # all
python benchmarks/run.py eval generate --data-root DIR --output FILE.jsonl --repeats 5
python benchmarks/run.py --data-root DIR --output /tmp/try.jsonl --quick           # does it work?

DIR holds the data sets (see prepare.py). Nothing is overwritten: a file that exists grows. A cell that fails,
or whose contenders did different work, leaves a line with `error`, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from errors import BenchmarkError
from kinds import KINDS, Found, Repeat
from prepare import Scratch
from processes import run, script
from results import Line, append, circumstances, read
from suite import FIGURES, Cell, choose, read_suite
from summary import table

from explora.core.bench.other_load import OtherLoad
from explora.errors import ExploraError

SEED = 11711


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, append, and show the table of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="cells of suite.toml; all by default")
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=1, help="at least so many; cheap cells take five")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--quick", action="store_true", help="tiny settings: shows that it works, no more")
    parser.add_argument(
        "--scratch", type=Path, default=Path(tempfile.gettempdir()) / "explora-benchmarks",
        help="where base, rows and adapters are kept between runs",
    )  # fmt: skip
    asked = parser.parse_args(arguments)
    try:
        cells = choose(read_suite(), asked.names)
        os.environ["EXPLORA_DATA"] = str(asked.data_root.resolve())
        run(script("prepare.py", str(asked.scratch), "--data-root", str(asked.data_root)))
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    shared, failed = circumstances() | {"seed": asked.seed, "quick": asked.quick}, False
    for cell in cells:
        repeats = 1 if asked.quick else max(asked.repeats, cell.repeats)
        for line in measure(cell, repeats, Scratch(asked.scratch.resolve()), asked.seed, asked.quick):
            failed |= bool(line["error"])
            append(asked.output, [shared | line])
    print(table(read(asked.output)))
    return int(failed)


def measure(cell: Cell, repeats: int, scratch: Scratch, seed: int, quick: bool) -> Iterator[Line]:
    """Yield the lines of a cell; after a failure there are no more repeats."""
    settings = {**cell.settings, **(cell.quick if quick else {})}
    for number in range(repeats):
        started, load = time.perf_counter(), OtherLoad()
        repeat = Repeat(settings=settings, scratch=scratch, number=number, seed=seed)
        try:
            found = KINDS[cell.kind](repeat)
            error = ""
        except (BenchmarkError, ExploraError) as problem:
            found, error = [Found(contender="explora", figures={})], str(problem)
        busy, seconds = round(load.processors(), 2), time.perf_counter() - started
        for each in found:
            yield line_of(cell, number, each, error) | {"busy_elsewhere": busy}
        print(f"{cell.name} {number + 1}/{repeats}: {error or 'done'} in {seconds:.0f} s", file=sys.stderr)
        if error:
            return


def line_of(cell: Cell, number: int, found: Found, error: str = "") -> Line:
    """Return a measurement as a line: every figure is there, None where it means nothing."""
    figures = {name: found.figures.get(name) for name in FIGURES}
    return {
        "name": cell.name,
        "contender": found.contender,
        "repeat": number + 1,
        **figures,
        "equality": found.equality,
        "error": error,
    }


if __name__ == "__main__":
    sys.exit(main())
