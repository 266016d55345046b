"""Judge a base against the bars of the embedded one, on a CPU.

    python benchmarks/gpu/judge_base.py BASE PACKED RESULTS.jsonl --data DATA

BASE is a model folder, or an archive that `pretrain.py` wrote; PACKED is what `pack_corpus.py` wrote, DATA
the folder with sst, cfimdb, quora and sonnets. Each result is a line of JSON with its options and, where
there is one, its bar. A measurement that RESULTS.jsonl already holds is not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROMPT = "When winter's hand has closed the garden door"


@dataclass(frozen=True)
class Training:
    """A fine-tuning that judges a base: the options of `explora train`, the score, and its bar, if any."""

    options: tuple[str, ...]
    score: str
    bar: float | None = None


# The commands of the figures in README.md.
TRAININGS = {
    "sst": Training(("sentiment", "--data", "sst", "--full", "--epochs", "2"), "accuracy", 0.46),
    "cfimdb": Training(
        ("sentiment", "--data", "cfimdb", "--full", "--epochs", "4", "--batch-size", "8"), "accuracy", 0.93
    ),
    "quora": Training(
        ("paraphrase", "--data", "quora", "--full", "--epochs", "2", "--batch-size", "32"), "accuracy", 0.82
    ),
    "sonnets": Training(("sonnet", "--data", "sonnets", "--lora", "8"), "perplexity"),
}
BITS = "bits_per_byte"
MOST_BITS = 1.50  # per byte of the held-out text
KINDS = ("bits", *TRAININGS)


class Judge:
    """Runs explora and writes what it measured."""

    def __init__(self, results: Path, data: Path, scratch: Path) -> None:
        self.results, self.scratch = results, scratch
        self.environment = {**os.environ, "EXPLORA_DATA": str(data)}
        self.known = _lines(results)
        results.parent.mkdir(parents=True, exist_ok=True)

    def measure_bits(self, name: str, base: str, text: Path) -> None:
        """Measure a base's bits per byte of a text, in fp32."""
        if self._has(name, "bits", None):
            return
        command = ["eval", "text", base, "--data", str(text), "--amp", "off", "--json"]
        scores = json.loads(self._run(command))
        low, high = scores["intervals"][BITS]
        value = scores["scores"][BITS]
        self._write(
            base=name, kind="bits", seed=None, score=BITS, value=value, interval=[low, high], bar=MOST_BITS
        )

    def fine_tune(self, name: str, base: str, kind: str, seed: int, steps: int | None) -> None:
        """Fine-tune a base by TRAININGS, or for a given number of steps, and take its dev score."""
        if self._has(name, kind, seed):
            return
        training, folder = TRAININGS[kind], self.scratch / f"{kind}-{seed}"
        options = [*training.options, "--seed", str(seed), *(["--max-steps", str(steps)] if steps else [])]
        command = ["train", *options, "--model", base, "-o", str(folder), "--overwrite", "--json"]
        result = json.loads(self._run(command))
        facts = {"score": training.score, "value": result["scores"][training.score], "bar": training.bar}
        facts |= {
            "interval": result["intervals"][training.score],
            "options": " ".join(options),
        }
        if kind == "sonnets":
            facts["text"] = self._sonnet(folder)
        self._write(base=name, kind=kind, seed=seed, **facts)

    def _sonnet(self, run: Path) -> str:
        written = self._run(["generate", "sonnet", str(run), "--prompt", PROMPT, "--seed", "1", "--json"])
        return PROMPT + str(json.loads(written.splitlines()[0])["text"])

    def _has(self, name: str, kind: str, seed: int | None) -> bool:
        return any((line["base"], line["kind"], line["seed"]) == (name, kind, seed) for line in self.known)

    def _run(self, arguments: Sequence[str]) -> str:
        command = [sys.executable, "-m", "explora", *arguments]
        return subprocess.run(
            command, env=self.environment, stdout=subprocess.PIPE, text=True, check=True
        ).stdout

    def _write(self, **facts: Any) -> None:
        line = json.dumps(facts)
        print(line, flush=True)
        with self.results.open("a", encoding="utf-8") as lines:
            lines.write(line + "\n")


def _lines(file: Path) -> list[dict[str, Any]]:
    return (
        [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    )


def unpacked(base: Path, scratch: Path) -> Path:
    """Return the folder of a base, unpacking an archive into `scratch`."""
    if base.is_dir():
        return base
    with tarfile.open(base) as archive:
        archive.extractall(scratch, filter="data")
    return scratch / base.name.removesuffix(".tar.xz")


def main() -> None:
    """Parse the arguments and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("base", type=Path, help="model folder, or an archive of one (.tar.xz)")
    parser.add_argument("packed", type=Path, help="folder with held-out.txt.xz")
    parser.add_argument("results", type=Path, help="file that JSON lines are appended to")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[1, 2, 3], help="random seeds (default: 1 2 3)"
    )
    parser.add_argument(
        "--only", nargs="+", choices=KINDS, default=KINDS, help="what to measure (default: all)"
    )
    parser.add_argument("--steps", type=int, help="optimizer steps of each fine-tuning, for a quick try")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        judge, folder = Judge(asked.results, asked.data, Path(scratch)), unpacked(asked.base, Path(scratch))
        if "bits" in asked.only:
            held_out = asked.packed / "held-out.txt.xz"
            judge.measure_bits("shipped", "embedded", held_out)
            judge.measure_bits(str(asked.base), str(folder), held_out)
        for kind in (kind for kind in TRAININGS if kind in asked.only):
            for seed in asked.seeds:
                judge.fine_tune(str(asked.base), str(folder), kind, seed, asked.steps)


if __name__ == "__main__":
    main()
