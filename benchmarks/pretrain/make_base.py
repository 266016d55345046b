"""Make the embedded base: mix the corpora, train from scratch, cool down, store in bf16.

    python benchmarks/pretrain/make_base.py CORPORA WORK --steps 5000 --cooldown 1000

Two phases of `explora train text --full`: a constant learning rate on rows of 256 tokens, which can be
stopped at any time (Ctrl-C saves, the same command goes on), then a linear decay to zero on rows of 512, the
context of the model. The result is WORK/base, a Hugging Face folder, and WORK/curve.csv.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

import torch

from explora.core.sources import base_tokenizer, open_base
from explora.core.weights import load_model, write_model

SHAPE = "layers=6,heads=4,width=256,context=512,vocabulary=8192"
COMMON = ["--full", "--optimizer", "muon", "--beta2", "0.95", "--weight-decay", "0.05", "--amp", "bf16"]
STABLE = ["--max-length", "256", "--batch-size", "24", "--learning-rate", "3e-3", "--schedule", "constant"]
COOLDOWN = ["--max-length", "512", "--batch-size", "12", "--learning-rate", "3e-3", "--schedule", "linear"]


def explora(arguments: list[str], folder: Path) -> None:
    """Run `explora train text` into `folder`, going on where it was stopped; nothing if it is finished."""
    record = folder / "run.json"
    if record.exists() and json.loads(record.read_text())["result"]:
        return
    resume = ["--resume"] if (folder / "checkpoint" / "latest").exists() else ["--overwrite"]
    command = [sys.executable, "-m", "explora", "train", "text", *arguments, "-o", str(folder), *resume]
    subprocess.run(command, check=True)


def store(trained: Path, target: Path) -> None:
    """Write the trained model in bf16, with its tokenizer."""
    base = open_base(str(trained))
    model = load_model(base, dtype=torch.bfloat16, device=torch.device("cpu"))
    write_model(target, model.state_dict(), base.shape, base_tokenizer(base))


def write_curve(folders: list[Path], target: Path) -> None:
    """Join the metrics of the phases: step, loss (mean of 50 steps), dev perplexity."""
    with target.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["phase", "step", "loss", "dev_perplexity"])
        for folder in folders:
            losses: list[float] = []
            for line in (folder / "metrics.jsonl").read_text().splitlines():
                values = json.loads(line)
                if "perplexity" in values:
                    writer.writerow([folder.name, values["step"], "", f"{values['perplexity']:.3f}"])
                    continue
                losses.append(values["loss"])
                if values["step"] % 50 == 0:
                    writer.writerow([folder.name, values["step"], f"{sum(losses) / len(losses):.4f}", ""])
                    losses = []


def main() -> None:
    """Make the base."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpora", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--steps", type=int, required=True, help="of the constant phase, 6,144 tokens each")
    parser.add_argument("--cooldown", type=int, required=True, help="steps of the decay")
    arguments = parser.parse_args()
    work: Path = arguments.work
    mix = work / "mix"
    if not (mix / "train.txt.xz").exists():
        script = Path(__file__).with_name("mix.py")
        subprocess.run([sys.executable, str(script), str(arguments.corpora), str(mix)], check=True)
    data = ["--data", str(mix / "train.txt.xz"), "--dev", str(mix / "dev.txt.xz")]
    stable, cooldown = work / "stable", work / "cooldown"
    every = ["--eval-every", "500", "--save-every", "250", "--warmup", "0.03"]
    steps = ["--max-steps", str(arguments.steps)]
    explora([*data, "--from-scratch", SHAPE, *COMMON, *STABLE, *every, *steps], stable)
    every = ["--eval-every", "200", "--save-every", "200", "--warmup", "0.02"]
    steps = ["--max-steps", str(arguments.cooldown), "--seed", "2"]
    explora([*data, "--model", str(stable), *COMMON, *COOLDOWN, *every, *steps], cooldown)
    store(cooldown, work / "base")
    write_curve([stable, cooldown], work / "curve.csv")


if __name__ == "__main__":
    main()
