"""Whether a change of the code changed a bit: ten short trainings, recorded before and after it, compared.

    python benchmarks/same_bits.py record FOLDER [--data DIR]
    python benchmarks/same_bits.py compare BEFORE AFTER

`record` trains every task with every method by the explora that this interpreter imports: on the embedded
base and the sample data, or on DIR/TASK. `compare` holds losses, scores and trained tensors against each
other, exactly; times, speeds, peaks of memory, folders and metadata of files may differ.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

from errors import BenchmarkError
from processes import EXPLORA, run
from safetensors import SafetensorError, deserialize

METHODS = {"lora": ("--lora", "4"), "full": ("--full",), "last-linear": ("--last-linear",)}
TASKS = {
    "paraphrase": ("lora", "full", "last-linear"),
    "sentiment": ("lora", "full", "last-linear"),
    "sonnet": ("lora", "full"),
    "text": ("lora", "full"),
}
LENGTHS = {"sonnet": "192"}  # beyond the plain attention of SHARED: the fused kernel is tried too
LENGTH = "64"
SHARED = (
    *("--max-steps", "20", "--eval-every", "10", "--batch-size", "4", "--seed", "7"),
    *("--device", "cpu", "--amp", "off", "--threads", "1", "--plain-attention", "128"),
)
RUNS = {
    f"{task}-{method}": (task, *METHODS[method], "--max-length", LENGTHS.get(task, LENGTH), *SHARED)
    for task, methods in TASKS.items()
    for method in methods
}
ONE_THREAD = {"OMP_NUM_THREADS": "1"}

TENSORS = ("adapter_model.safetensors", "model.safetensors")
METRICS = "metrics.jsonl"
FREE_IN_METRICS = {"tokens_per_second"}
FREE_IN_RESULT = {"run", "seconds", "tokens_per_second", "peak_memory_bytes", "full_fine_tuning"}


class Differs(BenchmarkError):
    """Something is not the same before and after."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Record or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="train, and keep the runs in FOLDER")
    recording.add_argument("folder", type=Path)
    recording.add_argument("--data", type=Path, help="a folder with one folder a task; else the sample data")
    comparing = commands.add_parser("compare", help="say of each run whether it is the same")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    asked = parser.parse_args(arguments)
    if asked.command == "compare":
        return compare(asked.before, asked.after)
    try:
        record(asked.folder, asked.data)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def record(folder: Path, data: Path | None = None) -> None:
    """Train every run into FOLDER/NAME and write its result to FOLDER/NAME.json."""
    source = None if data is None else data.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(folder):
        print(run([sys.executable, "-c", "import explora; print(explora.__file__)"]).out, end="", flush=True)
        for name, (task, *options) in RUNS.items():
            where = [] if source is None else ["--data", str(source / task)]
            command = [*EXPLORA, "train", task, *options, *where, "-o", name, "--json", "--quiet"]
            done = run(command, environment=ONE_THREAD)
            Path(f"{name}.json").write_text(done.out, encoding="utf-8")
            print(f"{name}: {done.seconds:.1f} s", flush=True)


def compare(before: Path, after: Path) -> int:
    """Print a line a run, `same` or what differs first; returns 1 if anything differs, else 0."""
    code = 0
    for name in RUNS:
        try:
            found = ", ".join(["same", *check_same(before, after, name)])
        except (BenchmarkError, SafetensorError, OSError, ValueError) as error:
            found, code = str(error), 1
        print(f"{name}: {found}")
    return code


def check_same(before: Path, after: Path, name: str) -> list[str]:
    """Return what is new in the result of a run. Raises Differs with what differs first."""
    check_metrics(before / name / METRICS, after / name / METRICS)
    files = [file for file in TENSORS if any((side / name / file).exists() for side in (before, after))]
    if not files:
        raise Differs("there are no trained tensors")
    for file in files:
        check_tensors(before / name / file, after / name / file)
    one, other = (json.loads((side / f"{name}.json").read_text(encoding="utf-8")) for side in (before, after))
    return [f"{key} is new" for key in new_keys(one, other, "result", FREE_IN_RESULT)]


def check_metrics(before: Path, after: Path) -> None:
    """Compare line by line, but for the times."""
    lines, others = (file.read_text(encoding="utf-8").splitlines() for file in (before, after))
    for number, (line, other) in enumerate(zip(lines, others, strict=False), start=1):
        new = new_keys(json.loads(line), json.loads(other), f"{METRICS}:{number}", FREE_IN_METRICS)
        if new:
            raise Differs(f"{new[0]} is new")
    if len(lines) != len(others):
        raise Differs(f"{METRICS}: {len(lines)} lines before, {len(others)} after")


def check_tensors(before: Path, after: Path) -> None:
    """Compare names, types, shapes and bytes; the metadata of the files may differ."""
    one, other = _tensors(before), _tensors(after)
    if lone := sorted(one.keys() ^ other.keys()):
        raise Differs(f"{before.name}: {lone[0]} is {'missing' if lone[0] in one else 'new'}")
    for name, tensor in one.items():
        for fact in ("dtype", "shape", "data"):
            if tensor[fact] != other[name][fact]:
                raise Differs(f"{before.name}: {name} has another {fact}")


def _tensors(file: Path) -> dict[str, dict[str, Any]]:
    return dict(deserialize(file.read_bytes()))  # type: ignore[no-untyped-call]


def new_keys(before: Any, after: Any, where: str, free: Set[str] = frozenset()) -> list[str]:
    """Return the keys of objects that only `after` has. Raises Differs for anything missing or different.

    Values are compared as JSON writes them, so that 1, 1.0 and true differ. `free` keys are left out.
    """
    if not (isinstance(before, dict) and isinstance(after, dict)):
        if (one := _written(before)) != (other := _written(after)):
            raise Differs(f"{where}: {one} before, {other} after")
        return []
    new = [f"{where}.{key}" for key in after if key not in before and key not in free]
    for key in before:
        if key in free:
            continue
        if key not in after:
            raise Differs(f"{where}.{key} is missing")
        new += new_keys(before[key], after[key], f"{where}.{key}")
    return new


def _written(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


if __name__ == "__main__":
    sys.exit(main())
