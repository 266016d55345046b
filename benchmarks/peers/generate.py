"""Continue prompts with transformers and peft: greedy, with the KV cache, batches padded on the left.

python generate.py BASE ADAPTER --max-new-tokens 128 --batch-size 16 --dtype bfloat16 < PROMPTS.jsonl

The adapter stays unmerged, as peft loads it. Writes one JSON object a prompt, in the
form of `explora generate --json`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import peft
import torch
import transformers


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, load, continue, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("adapter")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    asked = parser.parse_args(arguments)
    tokenizer = transformers.AutoTokenizer.from_pretrained(asked.base)
    tokenizer.pad_token, tokenizer.padding_side = tokenizer.eos_token, "left"
    model = transformers.AutoModelForCausalLM.from_pretrained(asked.base, dtype=getattr(torch, asked.dtype))
    model = peft.PeftModel.from_pretrained(model, asked.adapter).eval()
    prompts = [json.loads(line)["prompt"] for line in sys.stdin]
    started = time.perf_counter()
    found = list(continuations(model, tokenizer, prompts, asked.max_new_tokens, asked.batch_size))
    speed = sum(len(ids) for ids in found) / (time.perf_counter() - started)
    for prompt, ids in zip(prompts, found, strict=True):
        answer = {"prompt": prompt, "text": tokenizer.decode(ids), "tokens": len(ids)}
        print(json.dumps(answer | {"tokens_per_second": speed}))


def continuations(
    model: Any, tokenizer: Any, prompts: Sequence[str], max_new_tokens: int, size: int
) -> Iterator[list[int]]:
    """Yield the new token ids of every prompt, without the end-of-text that may close them."""
    for start in range(0, len(prompts), size):
        batch = tokenizer(list(prompts[start : start + size]), return_tensors="pt", padding=True)
        output = model.generate(
            **batch,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            use_cache=True,
            pad_token_id=tokenizer.eos_token_id,
        )
        for ids in output[:, batch["input_ids"].shape[1] :].tolist():
            ended = ids.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in ids else len(ids)
            yield ids[:ended]


if __name__ == "__main__":
    main()
