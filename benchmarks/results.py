"""Result files: JSON lines, one a measurement, only ever appended to; and their medians and ranges."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from errors import BenchmarkError
from suite import FIGURES

from explora.core.machine.facts import describe_machine

HERE = Path(__file__).resolve().parent
PACKAGES = ("explora", "torch", "transformers", "peft", "tokenizers")

Line = dict[str, Any]


def circumstances() -> Line:
    """Return what every measurement of a session shares: date, commit, versions, machine."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "machine": describe_machine(),
    }


def commit() -> str:
    """Return the commit, with a plus where the package differs from it."""
    found = _git("rev-parse", "--short=12", "HEAD")
    return found + ("+" if _git("status", "--porcelain", "--", ":/explora") else "")


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(HERE), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def append(file: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Add lines to a file, which is made where there is none."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as out:
        out.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def read(file: Path) -> list[Line]:
    """Return the lines of a result file. Raises BenchmarkError, naming file and line."""
    try:
        texts = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BenchmarkError(f"{file}: {error}") from None
    if not any(text.strip() for text in texts):
        raise BenchmarkError(f"{file} is empty")
    return [_parse(text, f"{file}:{number}") for number, text in enumerate(texts, start=1) if text.strip()]


def _parse(text: str, where: str) -> Line:
    try:
        line = json.loads(text)
    except ValueError as error:
        raise BenchmarkError(f"{where}: not JSON: {error}") from None
    if not isinstance(line, dict) or not isinstance(line.get("name"), str) or "contender" not in line:
        raise BenchmarkError(f"{where}: not a measurement: it should be an object with name and contender")
    for figure in FIGURES:
        if not isinstance(line.get(figure), (int, float, type(None))):
            raise BenchmarkError(f"{where}: {figure} should be a number, not {line[figure]!r}")
    return line


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A figure over the repeats: its median, the smallest, the largest."""

    median: float
    low: float
    high: float

    def over(self, other: Spread) -> Spread:
        """Return the ratio of the medians, and between the ends of the ranges."""
        return Spread(
            median=self.median / other.median, low=self.low / other.high, high=self.high / other.low
        )

    def overlaps(self, other: Spread) -> bool:
        """Whether the two cannot be told apart."""
        return self.low <= other.high and other.low <= self.high


def spread(values: Sequence[float]) -> Spread:
    """Return the spread of at least one value."""
    return Spread(median=median(values), low=min(values), high=max(values))


def group(lines: Iterable[Line]) -> dict[tuple[str, str], dict[str, Spread]]:
    """Return the spread of every figure by name and contender; lines that failed are left out."""
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for line in lines:
        figures = found.setdefault((line["name"], line["contender"]), {})
        for figure in FIGURES:
            if not line.get("error") and line.get(figure) is not None:
                figures.setdefault(figure, []).append(line[figure])
    return {key: {name: spread(values) for name, values in each.items()} for key, each in found.items()}


def shown(figure: str, value: float) -> str:
    """Return a figure's value with its unit."""
    if figure == "peak_memory_bytes":
        return f"{value / 2**20:,.0f} MiB"
    if figure == "matrix_share":
        return f"{100 * value:.0f} %"
    unit = "s" if "per_second" not in figure else figure.replace("_per_second", "/s")
    return f"{value:,.3g} {unit}" if value < 100 else f"{value:,.0f} {unit}"
