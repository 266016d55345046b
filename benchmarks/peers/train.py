"""A user's training with transformers and peft, where the precision, batch and dropout are their own.

Reads rows and settings as one JSON object on stdin (see kinds.train) and writes its figures as one on stdout.
Random order, padded to the longest of each batch, autocast for bf16, fused AdamW, gradients clipped to 1.
"""

from __future__ import annotations

import json
import random
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import peft
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

IGNORED = -100
LEARNING_RATE = 1e-4

Rows = Sequence[Mapping[str, Any]]


def load(base: str, method: str, dropout: float) -> Any:
    """Return the base in fp32, with peft's default LoRA for GPT-2 (r = 8 on c_attn) unless all is trained."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout
    )
    if method == "full":
        return model
    return peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", fan_in_fan_out=True))


def collate(rows: Rows, pad: int) -> dict[str, Tensor]:
    """Return input_ids, attention_mask and labels, each (B, T)."""
    width = max(len(row["ids"]) for row in rows)

    def padded(values: Iterator[list[int]], filler: int) -> Tensor:
        return torch.tensor([value + [filler] * (width - len(value)) for value in values])

    return {
        "input_ids": padded((row["ids"] for row in rows), pad),
        "attention_mask": padded(([1] * len(row["ids"]) for row in rows), 0),
        "labels": padded((row["labels"] for row in rows), IGNORED),
    }


@torch.no_grad()
def first_loss(model: Any, rows: Rows, pad: int, candidates: Sequence[int]) -> float:
    """Return the cross-entropy over the label words' logits, before any update."""
    model.eval()
    batch = collate(rows, pad)
    last = torch.tensor([len(row["ids"]) - 2 for row in rows])  # the answer is the last token
    logits = model(**batch).logits[torch.arange(len(rows)), last][:, torch.tensor(candidates)]
    answers = torch.tensor([candidates.index(row["ids"][-1]) for row in rows])
    return float(F.cross_entropy(logits.float(), answers))


def steps(rows: Rows, size: int) -> list[Rows]:
    """Cut rows into batches."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def measure(request: Mapping[str, Any]) -> dict[str, Any]:
    """Train on all rows once: `warm_up` first, untimed, the others in random order."""
    torch.manual_seed(request["seed"])
    model = load(request["base"], request["method"], request["dropout"])
    warm_up, rows, pad, size = request["warm_up"], request["rows"], request["pad"], request["batch_size"]
    loss = first_loss(model, request["first"], pad, request["candidates"])
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    in_bf16 = request["precision"] == "bf16"
    model.train()

    def take(batches: Sequence[Rows]) -> None:
        for batch in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
                loss = model(**collate(batch, pad)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()

    take(steps(warm_up, size))
    shuffled = random.Random(request["seed"]).sample(rows, len(rows))
    started = time.perf_counter()
    take(steps(shuffled, size))
    return {
        "seconds": time.perf_counter() - started,
        "tokens": sum(row["tokens"] for row in rows),
        "peak_memory_bytes": peak_memory_bytes(),
        "first_loss": loss,
    }


def peak_memory_bytes() -> int:
    """Return VmHWM."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found, "memory is measured on Linux"
    return int(found[1]) * 1024


if __name__ == "__main__":
    print(json.dumps(measure(json.load(sys.stdin))))
