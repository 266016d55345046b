"""Forgetting: nats per token against transformers, and where a base comes from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import GPT2LMHeadModel

from explora.core.base.find import base_tokenizer, open_base
from explora.core.base.weights import load_model
from explora.core.ranking.forgetting import general_text, nats_per_token

TEXT = general_text()[:700]


@pytest.fixture(scope="module")
def measured(tiny_base: Path) -> tuple[float, list[torch.Tensor], list[torch.Tensor]]:
    """Our figure, and by transformers the logits and the ids of each row."""
    base = open_base(str(tiny_base))
    tokenizer = base_tokenizer(base)
    model = load_model(base, dtype=torch.float32, device=torch.device("cpu")).eval()
    peer = GPT2LMHeadModel.from_pretrained(tiny_base).eval()
    ids = torch.tensor([tokenizer.eos, *tokenizer.encode(TEXT)])
    rows = list(ids.split(base.shape.n_positions))
    with torch.no_grad():
        logits = [peer(row[None]).logits[0] for row in rows]
    return nats_per_token(model, tokenizer, TEXT), logits, rows


def mean_loss(logits: list[torch.Tensor], rows: list[torch.Tensor], ahead: int) -> float:
    pairs = [(each[:-ahead], row[ahead:]) for each, row in zip(logits, rows, strict=True)]
    losses = [F.cross_entropy(each, targets, reduction="sum") for each, targets in pairs]
    return float(sum(losses)) / sum(len(targets) for _, targets in pairs)


def test_the_loss_is_that_of_transformers(measured) -> None:
    ours, logits, rows = measured
    assert len(rows) > 1
    assert ours == pytest.approx(mean_loss(logits, rows, 1), rel=1e-5)


def test_the_twin_that_predicts_one_token_further_differs(measured) -> None:
    ours, logits, rows = measured
    assert ours != pytest.approx(mean_loss(logits, rows, 2), rel=1e-3)


def test_the_general_text_is_a_few_kilobytes_of_plain_english() -> None:
    text = general_text()
    assert 2000 < len(text) < 8000
    assert text.isascii()
