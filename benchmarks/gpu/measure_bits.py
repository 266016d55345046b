"""Measure how many bits a model needs for each byte of a text."""

from __future__ import annotations

import math

import numpy as np
import torch
from draw_rows import on_device
from pack_tokens import Ids

from explora.core.model.cross_entropy import token_losses
from explora.core.model.gpt2 import GPT2

ROWS_AT_ONCE = 32


@torch.no_grad()
def bits_per_byte(model: GPT2, ids: Ids, text_bytes: int) -> float:
    """Return bits per byte as `explora eval text` does.

    The text is cut into windows of the model's context, and each predicts all its tokens but the first. The
    mean over them is multiplied by all tokens of the text and divided by its bytes.
    """
    length = model.shape.n_positions
    whole = len(ids) // length * length
    parts = [*np.split(ids[:whole], range(ROWS_AT_ONCE * length, whole, ROWS_AT_ONCE * length)), ids[whole:]]
    nats, count = 0.0, 0
    with torch.compiler.set_stance(
        "force_eager"
    ):  # other shapes than in training: compiling them takes longer
        for part in parts:
            rows = on_device(part, model.device).long().view(-1, min(length, max(1, len(part))))
            if rows.shape[0] == 0 or rows.shape[1] < 2:
                continue
            hidden, targets = model(rows)[:, :-1].flatten(0, 1), rows[:, 1:].flatten()
            nats += float(token_losses(hidden, model.wte.weight, targets).double().sum())
            count += len(targets)
    return nats / count / math.log(2) * len(ids) / text_bytes
