"""The tables of the study that explora comes from: their plan, their price, and what is known of them.

python -m benchmarks.paper commands               # the command of each cell on gpt2, the cheapest first
python -m benchmarks.paper commands --data DATA   # the same, and write the splits that they read
python -m benchmarks.paper count --data DATA      # count rows and tokens again, for the prices
python -m benchmarks.paper tables                 # write the tables into README.md

DATA is a folder with quora, sst, cfimdb and sonnets of CS224N, and gpt2-tokenizer. The runner of the study
trains the cells:

python -m benchmarks.study run --data DATA --plan benchmarks/paper/plan.toml \\
    --results benchmarks/results/paper
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.paper.prices import Count
from benchmarks.study.plan import Plan, read_plan
from benchmarks.study.rows import read_lines, read_rows
from explora.core.files import write_atomically
from explora.errors import ExploraError

HERE = Path(__file__).parent
PLAN, COUNTS, PAGE = HERE / "plan.toml", HERE / "counts.json", HERE / "README.md"
RESULTS = HERE.parent / "results"
ROWS = "rows.jsonl"
START, END = "<!-- tables: start -->\n", "<!-- tables: end -->\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=list(ACTIONS))
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument(
        "--splits",
        type=Path,
        default=Path("paper-splits"),
        help="folder of the splits (default: paper-splits)",
    )
    asked = parser.parse_args(arguments)
    if asked.what == "count" and asked.data is None:
        parser.error("count needs --data DATA")
    try:
        for line in ACTIONS[asked.what](read_plan(PLAN), asked):
            print(line)
    except ExploraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def read_counts() -> dict[str, Count]:
    """Return the sizes of the training sets, by data set."""
    return {name: Count(**each) for name, each in json.loads(COUNTS.read_text(encoding="utf-8")).items()}


def between_markers(page: str, tables: str) -> str:
    """Return the page with `tables` between its two markers, which stay."""
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{tables}\n{END}{after}"


def _commands(plan: Plan, asked: argparse.Namespace) -> Iterator[str]:
    from benchmarks.paper.commands import list_commands

    if asked.data is not None:
        from benchmarks.study.data import write_splits

        for data in plan.data.values():
            write_splits(data, "all", asked.data, asked.splits)
    costs = read_lines(RESULTS / "study" / "costs.jsonl")
    yield from list_commands(plan, read_rows([RESULTS / "paper" / ROWS]), read_counts(), costs, asked.splits)


def _count(plan: Plan, asked: argparse.Namespace) -> Iterator[str]:
    from benchmarks.paper.counting import count_all
    from explora.core.base.find import shape_of

    shape = shape_of(plan.stages[0].base)
    counts = {name: asdict(count) for name, count in count_all(plan, asked.data, asked.splits, shape)}
    write_atomically(COUNTS, json.dumps(counts, indent=2) + "\n")
    yield str(COUNTS)


def _tables(plan: Plan, asked: argparse.Namespace) -> Iterator[str]:
    from benchmarks.paper.published import read_published
    from benchmarks.paper.tables import Material, all_tables

    study = RESULTS / "study"
    material = Material(
        plan=plan,
        rows=read_rows([RESULTS / "paper" / ROWS]),
        study=read_plan(),
        study_rows=read_rows([study / ROWS]),
        floors=read_lines(study / "floors.jsonl"),
        costs=read_lines(study / "costs.jsonl"),
        counts=read_counts(),
        published=read_published(),
    )
    write_atomically(PAGE, between_markers(PAGE.read_text(encoding="utf-8"), all_tables(material)))
    yield str(PAGE)


ACTIONS = {"commands": _commands, "count": _count, "tables": _tables}

if __name__ == "__main__":
    sys.exit(main())
