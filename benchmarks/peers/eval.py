"""Score pairs with transformers and peft, as one would write it by hand; explora's cloze, spelled out.

python eval.py BASE ADAPTER PAIRS.jsonl PREDICTIONS.jsonl --batch-size 32 --dtype bfloat16

Batches in the file's order, padded on the right to the longest; the adapter stays unmerged, as peft loads it.
Writes one JSON object on stdout.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

TEMPLATE = 'Is "{sentence1}" a paraphrase of "{sentence2}"? Answer "yes" or "no": '
LABEL_WORDS = ("no", "yes")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, load, score, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("adapter")
    parser.add_argument("pairs", type=Path)
    parser.add_argument("predictions", type=Path)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    asked = parser.parse_args(arguments)
    tokenizer = transformers.AutoTokenizer.from_pretrained(asked.base)
    tokenizer.pad_token, tokenizer.padding_side = tokenizer.eos_token, "right"
    model = transformers.AutoModelForCausalLM.from_pretrained(asked.base, dtype=getattr(torch, asked.dtype))
    model = peft.PeftModel.from_pretrained(model, asked.adapter).eval()
    started = time.perf_counter()
    rows = [json.loads(line) for line in asked.pairs.read_text(encoding="utf-8").splitlines()]
    prompts = [TEMPLATE.format(**row) for row in rows]
    paraphrase = probabilities(model, tokenizer, prompts, asked.batch_size)
    lines = [json.dumps({"yes": value}) + "\n" for value in paraphrase]
    asked.predictions.write_text("".join(lines), encoding="utf-8")
    print(json.dumps({"rows": len(rows), "seconds": time.perf_counter() - started}))


@torch.inference_mode()
def probabilities(model: Any, tokenizer: Any, prompts: Sequence[str], size: int) -> list[float]:
    """Return the probability of yes against no for every prompt."""
    words = [tokenizer.encode(word)[0] for word in LABEL_WORDS]
    found: list[float] = []
    for start in range(0, len(prompts), size):
        batch = tokenizer(list(prompts[start : start + size]), return_tensors="pt", padding=True)
        last = batch["attention_mask"].sum(dim=1) - 1
        logits = model(**batch).logits[torch.arange(len(last)), last][:, words]
        found += logits.float().softmax(dim=-1)[:, 1].tolist()
    return found


if __name__ == "__main__":
    main()
