"""A visit to a machine with one GPU: run the prepared stages, each within a time limit of its own.

    python3 benchmarks/gpu/visit.py OUT                         # stages right and fast
    python3 benchmarks/gpu/visit.py OUT --stages base --packed FOLDER
    python3 benchmarks/gpu/visit.py OUT --small                 # on a CPU: that everything works

| stage | what | result in OUT |
|---|---|---|
| right | the tests of tests/gpu | right.jsonl: a line a test |
| fast | explora beside transformers and peft | fast.jsonl: a line a comparison |
| base | a better embedded base, and a control | pretrain.jsonl, base.tar.xz, control.tar.xz |

Everything is done from the repository alone: explora need not be installed, and nothing is downloaded. A
stage that has ended is not run again in the same OUT; one that was cut off is resumed. The exit code is 1 if
a stage failed or was cut off.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PACKAGES = ("torch", "transformers", "peft", "typer", "tokenizers", "safetensors", "numpy")
FROM_TESTS = "right.xml"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A command, and after how many minutes it is ended."""

    name: str
    command: list[str]
    minutes: float


def stages(arguments: argparse.Namespace) -> dict[str, Stage]:
    """Return every stage by name."""
    out, small = arguments.out, ["--small"] if arguments.small else []
    tests = ["-m", "pytest", "-m", "gpu", "tests/gpu", "-q", "-p", "no:cacheprovider"]
    # Warnings of versions that were never tried are no reason to fail.
    right = [*tests, "-o", "filterwarnings=default", f"--junitxml={out / FROM_TESTS}"]
    work = arguments.work
    minutes = arguments.minutes
    fast = [
        str(HERE / "fast.py"),
        str(out / "fast.jsonl"),
        str(work),
        "--minutes",
        str(minutes or 3.0),
        *small,
    ]
    device = ["--device", "cpu"] if arguments.small else []
    base_minutes = minutes or 7.5
    state = ["--state", str(work / "pretrain-state.pt")]
    base = [str(HERE / "pretrain.py"), str(arguments.packed), str(out), "--minutes", str(base_minutes)]
    return {
        "right": Stage(name="right", command=right, minutes=minutes or 3.0),
        "fast": Stage(name="fast", command=fast, minutes=(minutes or 3.0) + 1.0),
        "base": Stage(name="base", command=[*base, *state, *device, *small], minutes=base_minutes + 1.0),
    }


def run(stage: Stage, out: Path) -> dict[str, Any]:
    """Run a stage to its end or to its time limit; its output goes to a log and to ours."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    started = time.monotonic()
    with (out / f"{stage.name}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, *stage.command], cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            code: int | str = process.wait(60 * stage.minutes)
        except subprocess.TimeoutExpired:
            process.kill()
            code = "time limit"
    return {"stage": stage.name, "code": code, "seconds": round(time.monotonic() - started, 1)}


def write_tests(out: Path) -> None:
    """Turn the report of the tests into JSON lines: name, outcome, seconds, figures, a failure's message."""
    report = out / FROM_TESTS
    if not report.exists():
        return
    lines = []
    for case in ElementTree.parse(report).iter("testcase"):
        figures = {each.get("name"): each.get("value") for each in case.iter("property")}
        found = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        line = {
            "test": f"{case.get('classname')}::{case.get('name')}",
            "outcome": "passed" if found is None else found.tag,
            "seconds": float(case.get("time") or 0.0),
            **figures,
        }
        if found is not None:
            line["message"] = (found.get("message") or "")[:2000]
        lines.append(json.dumps(line))
    (out / "right.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    report.unlink()


def describe_machine() -> dict[str, Any]:
    """Return the GPU and the versions that the figures belong to."""
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    versions = {package: _version(package) for package in PACKAGES}
    return {"gpu": name, "python": sys.version.split()[0], **versions}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"


def show_end(log: Path, lines: int = 15) -> None:
    """Print the end of a log."""
    text = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
    print("\n".join(text.splitlines()[-lines:]), flush=True)


def has_ended(record: Path, name: str) -> bool:
    """Tell whether an earlier visit to the same OUT ran a stage to its end."""
    if not record.exists():
        return False
    lines = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    return any(line.get("stage") == name and line["code"] == 0 for line in lines)


def main() -> int:
    """Run the stages that were asked for and have not ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the results")
    parser.add_argument("--stages", default="right,fast", help="which, in this order (default: right,fast)")
    parser.add_argument("--minutes", type=float, help="time limit of each stage (default: its own)")
    parser.add_argument("--packed", type=Path, help="folder that pack_corpus.py wrote, for the stage base")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "build" / "gpu", help="folder for what can be lost"
    )
    parser.add_argument("--small", action="store_true", help="try everything on the CPU")
    arguments = parser.parse_args()
    wanted = arguments.stages.split(",")
    if "base" in wanted and arguments.packed is None:
        parser.error("the stage base needs --packed FOLDER")
    arguments.out = arguments.out.resolve()
    for folder in (arguments.out, arguments.work):
        folder.mkdir(parents=True, exist_ok=True)
    record, known = arguments.out / "visit.jsonl", stages(arguments)
    failed = False
    for name in wanted:
        if has_ended(record, name):
            print(f"{name}: has ended already")
            continue
        done = run(known[name], arguments.out)
        if name == "right":
            write_tests(arguments.out)
        with record.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({**done, **describe_machine()}) + "\n")
        show_end(arguments.out / f"{name}.log")
        print(done, flush=True)
        failed |= done["code"] != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
