"""The study: when does LoRA, or another method, pay off?

python -m benchmarks.study list                        # the cells that are left, and their price in tokens
python -m benchmarks.study floors --data DATA          # what a score must beat; needs scikit-learn
python -m benchmarks.study costs --data DATA           # speed and memory, on an otherwise idle machine
python -m benchmarks.study run --data DATA --hours 4   # train the cells, in order, and append their rows
python -m benchmarks.study run --data DATA --shard 1/2 --rows part-1.jsonl
python -m benchmarks.study tables                      # every table and figure of the rows so far

DATA is a folder with the files of CS224N: quora, sst, cfimdb and sonnets. Every command goes on where it
stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.study.plan import Plan, read_plan
from benchmarks.study.rows import append_row, read_lines, read_rows
from explora.errors import ExploraError

RESULTS = Path(__file__).parent.parent / "results" / "study"
FLOORS, COSTS, TABLES = "floors.jsonl", "costs.jsonl", "tables.md"
# For the processes of the cells, as `explora train` sets it for itself; one thread a run.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    "LRU_CACHE_CAPACITY": "64",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for."""
    asked = _parser().parse_args(arguments)
    plan = read_plan(asked.plan)
    if asked.base:
        plan = plan.on(asked.base)
    try:
        for line in ACTIONS[asked.what](plan, asked):
            print(time.strftime("%H:%M:%S"), line, flush=True)
    except ExploraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=list(ACTIONS))
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--plan", type=Path, default=Path(__file__).with_name("plan.toml"))
    parser.add_argument("--base", help="a base, as --model takes it (default: those of the plan)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of rows, tables and figures")
    parser.add_argument("--rows", type=Path, help="file of rows (default: rows.jsonl in --results); it grows")
    parser.add_argument("--others", type=Path, nargs="*", default=[], help="rows of other machines or shards")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "explora-study",
        help="scratch folder: splits, bases, runs in progress",
    )  # fmt: skip
    parser.add_argument("--stages", nargs="*", help="some stages of the plan (default: all, in order)")
    parser.add_argument("--hours", type=float, default=1000.0, help="stop after so many hours")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, one thread each (default: 2)")
    parser.add_argument("--shard", default="1/1", help="part I of N: I/N")
    parser.add_argument("--device", default="auto", help="cpu or cuda (default: auto)")
    parser.add_argument("--commit", help="commit of the code, where it is not a git repository")
    return parser


def _rows_file(asked: argparse.Namespace) -> Path:
    return asked.rows or asked.results / "rows.jsonl"


def _run(plan: Plan, asked: argparse.Namespace) -> Iterator[str]:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from benchmarks.study.run import Places, Session, Study
    from explora.core.config.concerns import RuntimeConfig

    part, _, parts = asked.shard.partition("/")
    places = Places(
        source=asked.data,
        work=asked.work.resolve(),  # a run records absolute paths
        output=_rows_file(asked),
        others=tuple(asked.others),
    )
    session = Session(
        jobs=asked.jobs,
        deadline=time.monotonic() + 3600 * asked.hours,
        shard=(int(part), int(parts)),
        runtime=RuntimeConfig(device=asked.device, threads=1),
        commit=asked.commit,
    )
    study = Study(plan, places, session)
    yield from study.run(asked.stages or [stage.name for stage in plan.stages])


def _list(plan: Plan, asked: argparse.Namespace) -> Iterator[str]:
    from benchmarks.study.prices import list_cells

    yield from list_cells(plan, read_rows([*asked.others, _rows_file(asked)]))


def _floors(plan: Plan, asked: argparse.Namespace) -> Iterator[str]:
    from benchmarks.study.floors import measure_floors

    file = asked.results / FLOORS
    for line in measure_floors(plan, asked.data, asked.work, read_lines(file)):
        append_row(file, line)
        yield f"{line['data']} {line['rows'] or ''} {line['floor']} {line['score']:.4f}"


def _costs(plan: Plan, asked: argparse.Namespace) -> Iterator[str]:
    from benchmarks.study.costs import measure_costs

    yield from measure_costs(plan.costs, asked.data, asked.results / COSTS)


def _tables(plan: Plan, asked: argparse.Namespace) -> Iterator[str]:
    from benchmarks.study.figures import all_figures
    from benchmarks.study.tables import all_tables

    rows = read_rows([*asked.others, _rows_file(asked)])
    file, figures = asked.results / TABLES, all_figures(plan, rows, asked.results)
    page = all_tables(
        plan, rows, read_lines(asked.results / FLOORS), read_lines(asked.results / COSTS), figures
    )
    file.write_text(page, encoding="utf-8")
    yield f"{file} and {len(figures)} figures"


ACTIONS = {"list": _list, "floors": _floors, "costs": _costs, "run": _run, "tables": _tables}

if __name__ == "__main__":
    sys.exit(main())
