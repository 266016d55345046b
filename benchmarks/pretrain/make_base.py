"""Make the embedded base: mix the corpora, train from scratch, learn to answer, store in bf16.

    python benchmarks/pretrain/make_base.py CORPORA WORK

Five phases, each a run of `explora train --full` in a folder of WORK. `stable` and `cooldown` read plain
text, at a constant learning rate on rows of 256 tokens and then at a falling one on rows of 512, the
context of the model. `answers` and `last` read a smaller mixture with weakly labelled pairs and reviews
(`pretext.py`); between them `cloze` reads the pairs alone, as `explora train paraphrase` does. All can be
stopped at any time: Ctrl-C saves, the same command goes on. The result is WORK/base, a Hugging Face
folder, and WORK/curve.csv.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from explora.core.base.find import base_tokenizer, open_base
from explora.core.base.model_folder import write_model
from explora.core.base.weights import load_model

SHAPE = "layers=6,heads=4,width=256,context=512,vocabulary=8192"
COMMON = ["--full", "--optimizer", "muon", "--beta2", "0.95", "--weight-decay", "0.05", "--amp", "bf16"]
STABLE = ["--max-length", "256", "--batch-size", "24", "--learning-rate", "3e-3", "--schedule", "constant"]
COOLDOWN = ["--max-length", "512", "--batch-size", "12", "--learning-rate", "3e-3", "--schedule", "linear"]
ANSWERS = ["--max-length", "256", "--batch-size", "24", "--learning-rate", "2e-3", "--schedule", "constant"]
CLOZE = ["--batch-size", "64", "--learning-rate", "1e-3", "--schedule", "linear", "--warmup", "0.06"]
LAST = ["--max-length", "512", "--batch-size", "12", "--learning-rate", "1e-3", "--schedule", "linear"]
STEPS = {"stable": 4800, "cooldown": 520, "answers": 250, "cloze": 1000, "last": 300}
HERE = Path(__file__).parent
PLAIN, PRETEXT = ["-m", "explora", "train", "text"], [str(HERE / "pretext.py"), "train", "text"]
PARAPHRASE = ["-m", "explora", "train", "paraphrase"]


def run(command: list[str], **variables: str) -> None:
    """Run a command to its end, passing a signal on and waiting for what it saves; its failure is ours."""
    child = subprocess.Popen(
        [sys.executable, *command], env={**os.environ, **variables}, start_new_session=True
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: child.send_signal(received))
    if code := child.wait():
        sys.exit(code)


def make(script: str, arguments: list[str], made: Path) -> None:
    """Run one of the scripts beside this one, unless what it makes is there."""
    if not made.exists():
        run([str(HERE / script), *arguments])


def train(program: list[str], arguments: list[str], folder: Path, verdicts: int = 1) -> None:
    """Train into `folder`, going on where it was stopped; nothing if it is finished."""
    record = folder / "run.json"
    if record.exists() and json.loads(record.read_text())["result"]:
        return
    resume = ["--resume"] if (folder / "checkpoint" / "latest").exists() else ["--overwrite"]
    run([*program, *COMMON, *arguments, "-o", str(folder), *resume], VERDICTS_TIMES=str(verdicts))


def limit(steps: int) -> list[str]:
    """Return the options for so many steps."""
    return ["--max-steps", str(steps)]


def store(trained: Path, target: Path) -> None:
    """Write the trained model in bf16, with its tokenizer."""
    base = open_base(str(trained))
    model = load_model(base, dtype=torch.bfloat16, device=torch.device("cpu"))
    write_model(target, model.state_dict(), base.shape, base_tokenizer(base))


def curve(folder: Path) -> Iterator[list[str]]:
    """Yield the rows of a phase: the mean loss of 50 steps, or a dev score."""
    losses: list[float] = []
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        scores = [f"{values[name]:.3f}" if name in values else "" for name in ("perplexity", "accuracy")]
        if any(scores):
            yield [folder.name, str(values["step"]), "", *scores]
            continue
        losses.append(values["loss"])
        if values["step"] % 50 == 0:
            yield [folder.name, str(values["step"]), f"{sum(losses) / len(losses):.4f}", *scores]
            losses = []


def write_curve(folders: list[Path], target: Path) -> None:
    """Join the metrics of the phases. Where there are answers, their weighted loss is in the loss."""
    with target.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["phase", "step", "loss", "dev_perplexity", "dev_accuracy"])
        for folder in folders:
            writer.writerows(curve(folder))


def learn_language(corpora: str, work: Path, steps: dict[str, int]) -> None:
    """Make WORK/cooldown: plain text, at a constant rate and then a falling one."""
    mix = work / "mix"
    make("mix.py", [corpora, str(mix)], mix / "train.txt.xz")
    data = ["--data", str(mix / "train.txt.xz"), "--dev", str(mix / "dev.txt.xz")]
    every = ["--eval-every", "500", "--save-every", "250", "--warmup", "0.03", *limit(steps["stable"])]
    train(PLAIN, [*data, "--from-scratch", SHAPE, *STABLE, *every], work / "stable")
    every = ["--eval-every", "200", "--save-every", "200", "--warmup", "0.02", *limit(steps["cooldown"])]
    start = ["--model", str(work / "stable"), "--seed", "2"]
    train(PLAIN, [*data, *start, *COOLDOWN, *every], work / "cooldown")


def learn_to_answer(corpora: str, work: Path, base: Path, steps: dict[str, int]) -> None:
    """Make WORK/last from `base`: text and answers, then answers alone, then both with a falling rate."""
    mix = work / "answered"
    make("mix.py", [corpora, str(mix), "--last"], mix / "train.txt.xz")
    make("pairs.py", [corpora, str(mix)], mix / "cloze.tsv")
    make("verdicts.py", [corpora, str(mix)], mix / "verdicts.txt.xz")
    data = ["--data", str(mix / "train.txt.xz"), "--dev", str(mix / "dev.txt.xz")]
    every = ["--eval-every", "250", "--save-every", "100", "--warmup", "0.24", *limit(steps["answers"])]
    start = ["--model", str(base), "--seed", "3"]
    train(PRETEXT, [*data, *start, *ANSWERS, *every], work / "answers")
    pairs = ["--data", str(mix / "cloze.tsv"), "--dev", str(mix / "cloze-dev.tsv")]
    every = ["--eval-every", "150", "--save-every", "150", *limit(steps["cloze"])]
    start = ["--model", str(work / "answers"), "--seed", "5"]
    train(PARAPHRASE, [*pairs, *start, *CLOZE, *every], work / "cloze")
    every = ["--eval-every", "200", "--save-every", "50", "--warmup", "0.03", *limit(steps["last"])]
    start = ["--model", str(work / "cloze"), "--seed", "2"]
    train(PRETEXT, [*data, *start, *LAST, *every], work / "last", verdicts=2)


def main() -> None:
    """Make the base."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpora", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument(
        "--scale", type=float, default=1.0, help="of all phases' steps: 0.004 tries them in minutes"
    )
    arguments = parser.parse_args()
    work, corpora = arguments.work, str(arguments.corpora)
    steps = {phase: max(1, round(arguments.scale * count)) for phase, count in STEPS.items()}
    learn_language(corpora, work, steps)
    plain = work / "plain"
    store(work / "cooldown", plain)  # in bf16, as the version that was continued
    learn_to_answer(corpora, work, plain, steps)
    store(work / "last", work / "base")
    write_curve([work / phase for phase in STEPS], work / "curve.csv")


if __name__ == "__main__":
    main()
