"""A result file as a Markdown table: work, target, what was measured with its range, reached or not.

python benchmarks/summary.py benchmarks/results/NAME.jsonl > benchmarks/results/NAME.md
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from errors import BenchmarkError
from results import Line, Spread, group, read, shown
from suite import Cell, Target, read_suite

HEADER = ("work", "figure", "target", "stretch", "measured", "range", "ours", "theirs", "reached")
Figures = Mapping[str, Mapping[str, Spread]]  # by contender, in the order of the cell


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file", type=Path)
    try:
        print(table(read(parser.parse_args(arguments).file)))
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def table(lines: Sequence[Line]) -> str:
    """Return the rows of every cell that was measured, and under what circumstances."""
    suite, figures = read_suite(), group(lines)
    errors = {line["name"]: line["error"] for line in lines if line.get("error")}
    rows = [HEADER, ("---",) * len(HEADER)]
    for name in dict.fromkeys(line["name"] for line in lines):
        if name not in suite:
            continue
        of_cell = {contender: found for (cell, contender), found in figures.items() if cell == name}
        rows += (
            [(suite[name].work, errors[name], *[""] * 7)] if name in errors else _rows(suite[name], of_cell)
        )
    text = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*text, "", *_circumstances(lines)])


def _rows(cell: Cell, figures: Figures) -> Iterator[tuple[str, ...]]:
    for target in cell.targets:
        yield _row(cell, target, figures)
    if not cell.targets:
        values = [shown("seconds", found["seconds"].median) for found in figures.values()]
        yield (cell.work, "seconds", "", "", "", "", values[0], *values[1:2], "")


def _row(cell: Cell, target: Target, figures: Figures) -> tuple[str, ...]:
    found = [each[target.figure] for each in figures.values() if target.figure in each]
    is_ratio = target.of == "ratio"
    if len(found) < 1 + is_ratio:
        return (cell.work, target.figure.replace("_", " "), "not measured", *[""] * 6)
    measured = found[0].over(found[1]) if is_ratio else found[0]

    def words(value: float) -> str:
        return f"{value:.3g} x" if is_ratio else shown(target.figure, value)

    values = [shown(target.figure, each.median) for each in found]
    return (
        cell.work,
        target.figure.replace("_", " "),
        words(target.reach),
        words(target.stretch) if target.stretch is not None else "",
        words(measured.median),
        f"{words(measured.low)} to {words(measured.high)}",
        values[0],
        values[1] if len(values) > 1 else "",
        verdict(target, measured.median),
    )


def verdict(target: Target, value: float) -> str:
    """Say whether the target, or even its stretch, is reached."""
    if target.stretch is not None and target.is_reached(value, target.stretch):
        return "stretch"
    return "yes" if target.is_reached(value, target.reach) else "no"


def ratio(figure: str, figures: Figures) -> Spread | None:
    """Return the first contender's figure over the second's, None where there are not two."""
    found = [each[figure] for each in figures.values() if figure in each]
    return found[0].over(found[1]) if len(found) > 1 else None


def _circumstances(lines: Sequence[Line]) -> Iterator[str]:
    first = lines[0]
    machine, versions = first.get("machine", {}), first.get("versions", {})
    commits = ", ".join(dict.fromkeys(str(line.get("commit")) for line in lines))
    repeats = [line.get("repeat", 1) for line in lines]
    yield f"{machine.get('processor')}, {machine.get('processors')} processors; " + ", ".join(
        f"{name} {version}" for name, version in versions.items()
    )
    yield f"Commit {commits}; {first.get('date')}; medians of up to {max(repeats)}."
    busy = max((line.get("busy_elsewhere", 0.0) for line in lines), default=0.0)
    yield f"Other programs kept up to {busy:.1f} processors busy."
    if any(line.get("quick") for line in lines):
        yield "Quick settings: these figures show that the cells work, and nothing else."
    for name, equality in {line["name"]: line["equality"] for line in lines if line.get("equality")}.items():
        yield f"- {name}: {equality}"


if __name__ == "__main__":
    sys.exit(main())
