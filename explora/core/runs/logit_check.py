"""Compare the logits of a merged model with those of base and adapter, also as `transformers` computes them.

All are computed in fp64, so that only the weights can differ. In fp32 the order of additions alone changes
GPT-2's logits, about 100, by 1e-4.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from explora.core.data.batching import pad
from explora.core.model.gpt2 import GPT2
from explora.core.runs.assemble import Session
from explora.errors import AdapterError

# Rounding the merged weights to fp32 changes a logit by less than this value.
TOLERANCE = 1e-4

# Questions, a remark, verse, code, other scripts: rows of different lengths. PROBE adds one of all of them.
SENTENCES = (
    "How do I learn to play the guitar on my own?",
    'Is "the film was long" a paraphrase of "it was a long film"? Answer "yes" or "no": ',
    "A slow, tender and very funny film.",
    "When winter strips the orchard to the bone,\nand every path lies buried under white,\n",
    "for row in table: print(row[0] + 1)",
    "Naïve café owners pay 1,234.50 € in Zürich; это правда.",
)
PROBE = (*SENTENCES, " ".join(SENTENCES))
PROBE_TOKENS = 128  # limit for a row: with a small vocabulary, a sentence has many tokens


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Rows padded on the right: input_ids (B, T); `real` (B, T) marks the tokens that are not padding."""

    input_ids: Tensor
    real: Tensor


def make_probe(session: Session) -> Probe:
    """Encode the sentences of PROBE with the tokenizer of a session."""
    longest = min(PROBE_TOKENS, session.model.shape.n_positions)
    rows = [ids[:longest] for ids in session.tokenizer.encode_batch(PROBE)]
    lengths = torch.tensor([len(ids) for ids in rows])
    input_ids = pad(rows, session.tokenizer.eos)
    return Probe(input_ids=input_ids, real=torch.arange(input_ids.shape[1]) < lengths[:, None])


@torch.no_grad()
def our_logits(model: GPT2, probe: Probe) -> Tensor:
    """Return the logits of each real token, (N, V), or of each row for a classifier, (B, classes).

    They are computed in fp64. The model is in fp32 before and after, with the same bits.
    """
    model.double().compute_dtype = torch.float64
    hidden = model(probe.input_ids)
    if model.score is None:
        logits = F.linear(hidden[probe.real], model.wte.weight)
    else:
        last = probe.real.sum(dim=1) - 1
        logits = F.linear(hidden[torch.arange(len(last)), last], model.score.weight)
    model.float().compute_dtype = torch.float32
    return logits


@torch.no_grad()
def transformers_logits(folder: Path, probe: Probe, classifies: bool) -> Tensor:
    """Return the same logits from `transformers`. Raises AdapterError for missing or unexpected weights.

    A classifier gets the rows one by one, because it reads the last token that is not its own padding token.
    """
    from transformers import GPT2ForSequenceClassification, GPT2LMHeadModel

    kind: Any = GPT2ForSequenceClassification if classifies else GPT2LMHeadModel
    in_fp64 = {"reorder_and_upcast_attn": False}  # a setting of the base would compute attention in fp32
    with _no_progress_bar():
        model, loading = kind.from_pretrained(folder, output_loading_info=True, **in_fp64)
    wrong = {name: sorted(map(str, found)) for name, found in loading.items() if found}
    if wrong:
        raise AdapterError(f"transformers opens the merged model, but reports {wrong}")
    model.double().eval()
    if classifies:
        rows = [ids[real] for ids, real in zip(probe.input_ids, probe.real, strict=True)]
        return torch.cat([model(input_ids=row[None]).logits for row in rows])
    logits: Tensor = model(input_ids=probe.input_ids, attention_mask=probe.real.long()).logits
    return logits[probe.real]


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def require_equal(expected: Tensor, found: Tensor, what: str) -> None:
    """Raise AdapterError if logits differ by more than TOLERANCE; `what` is the cause, for the message."""
    difference = float((expected - found).abs().max())
    if not difference <= TOLERANCE:  # so that NaN fails
        raise AdapterError(
            f"{what} changes a logit by {difference:.2g}, more than {TOLERANCE:g}; nothing was written",
            "the weights may be so large that fp32 is too coarse for their sum",
        )
