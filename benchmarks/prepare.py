"""What the cells share, made once: a base of random weights in a folder, rows, and two adapters.

python benchmarks/prepare.py SCRATCH --data-root DIR

DIR holds quora/ and sst/ with the files of the CS224N course, and gpt2-tokenizer/ with GPT-2's vocab.json and
merges.txt. Both contenders read what is written here.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from processes import EXPLORA, run

LONGEST = 400  # characters of a sentence: nothing is cut to the task's maximum, which the peer does not do
TRAIN_PAIRS, DEV_ROWS = 512, 16
ADAPTER_STEPS = ("--lora", "8", "--max-steps", "2", "--batch-size", "4")

Row = dict[str, str]


@dataclass(frozen=True)
class Scratch:
    """The folder and what lies where in it."""

    folder: Path

    @property
    def base(self) -> Path:
        """A model folder of random weights, with its tokenizer."""
        return self.folder / "base"

    @property
    def pairs(self) -> Path:
        """Question pairs: train.jsonl and dev.jsonl; test.jsonl are those of `eval`."""
        return self.folder / "pairs"

    @property
    def sentences(self) -> Path:
        """SST: train.jsonl and dev.jsonl."""
        return self.folder / "sentences"

    @property
    def text(self) -> Path:
        """Questions as one document, so that nothing learns to stop: train.txt and dev.txt."""
        return self.folder / "text"

    def adapter(self, task: str) -> Path:
        """Return the adapter of a task."""
        return self.folder / "adapters" / task


def main(arguments: Sequence[str] | None = None) -> None:
    """Make what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--data-root", type=Path, required=True)
    asked = parser.parse_args(arguments)
    scratch = Scratch(asked.scratch.resolve())
    make_rows(scratch, asked.data_root)
    make_base(scratch.base, asked.data_root / "gpt2-tokenizer")
    make_adapters(scratch)


def make_base(folder: Path, tokenizer: Path, name: str = "random:gpt2") -> None:
    """Write the base called `name` as a folder that both sides open."""
    if folder.is_dir():
        return
    import torch

    from explora.core.base.find import base_tokenizer, open_base
    from explora.core.base.model_folder import write_model
    from explora.core.base.weights import load_model

    base = open_base(name)
    model = load_model(base, dtype=torch.float32, device=torch.device("cpu"))
    write_model(folder, model.state_dict(), base.shape, base_tokenizer(base, str(tokenizer)))


def make_rows(scratch: Scratch, data_root: Path) -> None:
    """Write the rows that the cells read."""
    quora, sst = data_root / "quora", data_root / "sst"
    train, dev = list(_pairs(quora / "quora-train.csv")), list(_pairs(quora / "quora-dev.csv"))
    _write(scratch.pairs / "train.jsonl", train[:TRAIN_PAIRS])
    _write(scratch.pairs / "dev.jsonl", train[TRAIN_PAIRS : TRAIN_PAIRS + DEV_ROWS])
    _write(scratch.pairs / "test.jsonl", dev)
    _write(scratch.sentences / "train.jsonl", list(_sentences(sst / "ids-sst-train.csv")))
    _write(scratch.sentences / "dev.jsonl", list(islice(_sentences(sst / "ids-sst-dev.csv"), DEV_ROWS)))
    scratch.text.mkdir(exist_ok=True)
    questions = [row["sentence1"] for row in train]
    (scratch.text / "train.txt").write_text(" ".join(questions[:TRAIN_PAIRS]), encoding="utf-8")
    (scratch.text / "dev.txt").write_text(" ".join(questions[-DEV_ROWS:]), encoding="utf-8")


def _read(file: Path) -> Iterator[Row]:
    with file.open(encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(lines, delimiter="\t")


def _pairs(file: Path) -> Iterator[Row]:
    for row in _read(file):
        one, two = row["sentence1"] or "", row["sentence2"] or ""
        if one.strip() and two.strip() and max(len(one), len(two)) <= LONGEST:
            yield {"sentence1": one, "sentence2": two, "label": str(int(float(row["is_duplicate"])))}


def _sentences(file: Path) -> Iterator[Row]:
    for row in _read(file):
        yield {"sentence": row["sentence"], "label": row["sentiment"]}


def _write(file: Path, rows: Sequence[Row]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    file.write_text("".join(lines), encoding="utf-8")


def cut(source: Path, target: Path, rows: int) -> Path:
    """Write the first rows of a file of rows to another; returns that."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open(encoding="utf-8") as lines:
        target.write_text("".join(islice(lines, rows)), encoding="utf-8")
    return target


def make_adapters(scratch: Scratch) -> None:
    """Train an adapter for a few steps, so that it counts: of paraphrase for eval, of text for generate."""
    chosen = {
        "paraphrase": ["--data", str(scratch.pairs), "--learning-rate", "0.001"],
        "text": ["--data", str(scratch.text), "--learning-rate", "0.0001", "--max-length", "64"],
    }
    for task, options in chosen.items():
        folder = scratch.adapter(task)
        if folder.is_dir():
            continue
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        where = ["--model", str(scratch.base), "-o", str(partial)]
        run([*EXPLORA, "train", task, *ADAPTER_STEPS, *options, *where])
        partial.replace(folder)


if __name__ == "__main__":
    main()
