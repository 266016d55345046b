"""Two result files side by side: what a change did, and where nothing can be said.

python benchmarks/compare.py BEFORE.jsonl AFTER.jsonl
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from errors import BenchmarkError
from results import Spread, group, read, shown
from suite import FIGURES

HEADER = ("name", "contender", "figure", "before", "range", "after", "range", "after / before", "verdict")
Grouped = Mapping[tuple[str, str], Mapping[str, Spread]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a Markdown table of what both files have."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    asked = parser.parse_args(arguments)
    try:
        before, after = group(read(asked.before)), group(read(asked.after))
        rows = list(compare(before, after))
        if not rows:
            raise BenchmarkError(f"{asked.before} and {asked.after} have no measurement in common")
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for row in (HEADER, ("---",) * len(HEADER), *rows):
        print("| " + " | ".join(row) + " |")
    for key in sorted(before.keys() ^ after.keys()):
        print(f"\n{' '.join(key)}: only in {asked.before if key in before else asked.after}", file=sys.stderr)
    return 0


def compare(before: Grouped, after: Grouped) -> Iterator[tuple[str, ...]]:
    """Yield a row for each figure that both have."""
    for key in before:
        for figure in FIGURES:
            if figure in before[key] and figure in after.get(key, {}):
                yield (*key, figure, *_row(figure, before[key][figure], after[key][figure]))


def _row(figure: str, before: Spread, after: Spread) -> tuple[str, ...]:
    sides = [text for side in (before, after) for text in (shown(figure, side.median), _range(figure, side))]
    return (*sides, f"{after.median / before.median:.3f}", verdict(figure, before, after))


def _range(figure: str, side: Spread) -> str:
    return f"{shown(figure, side.low)} to {shown(figure, side.high)}"


def verdict(figure: str, before: Spread, after: Spread) -> str:
    """Say better or worse where the ranges do not overlap."""
    if before.overlaps(after):
        return "not distinguishable"
    return "better" if (after.median > before.median) == FIGURES[figure] else "worse"


if __name__ == "__main__":
    sys.exit(main())
