"""`explora eval` with a clock between opening the run and scoring, which is what the peer's script times.

python eval.py BASE ADAPTER PAIRS.jsonl PREDICTIONS.jsonl --batch-size 32 --dtype bfloat16
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import explora

AMP = {"float32": "off", "bfloat16": "bf16"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, load, score, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("adapter")
    parser.add_argument("pairs")
    parser.add_argument("predictions", type=Path)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--dtype", choices=AMP, default="float32")
    asked = parser.parse_args(arguments)
    session = explora.load("paraphrase", asked.adapter, model=asked.base, amp=AMP[asked.dtype])
    started = time.perf_counter()
    found = explora.evaluate(session, asked.pairs, batch_size=asked.batch_size)
    yes = [
        item["probability"] if item["prediction"] == "1" else 1 - item["probability"]
        for item in found.predictions
    ]
    lines = [json.dumps({"yes": value}) + "\n" for value in yes]
    asked.predictions.write_text("".join(lines), encoding="utf-8")
    print(json.dumps({"rows": found.examples, "seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    main()
