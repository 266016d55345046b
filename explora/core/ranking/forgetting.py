"""Measure how much general English a run forgot: nats per token of one text, for its base and the run."""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass
from pathlib import Path

import torch

from explora.core.base.find import Base, open_base
from explora.core.base.tokenizer import Tokenizer
from explora.core.base.weights import base_digest, load_model
from explora.core.model.cross_entropy import token_losses
from explora.core.model.gpt2 import GPT2
from explora.core.ranking.candidates import Candidate
from explora.core.runs.assemble import Session
from explora.errors import ExploraError, Interrupted

LONGEST_ROW = 512  # tokens, or fewer if the model reads fewer


@dataclass(frozen=True, kw_only=True)
class Forgetting:
    """Nats per token of the general text: `before` of the base, `after` of the run."""

    before: float
    after: float

    @property
    def increase(self) -> float:
        """Increase of the loss in nats per token; negative if the text became more likely."""
        return self.after - self.before


def general_text() -> str:
    """Return the package's general text: short pieces in plain English, written for explora."""
    folder = Path(str(importlib.resources.files("explora"))) / "assets" / "general"
    return (folder / "general.txt").read_text(encoding="utf-8")


class GeneralText:
    """Measurement of forgetting. Each base is measured only once per tokenizer."""

    def __init__(self) -> None:
        self.text = general_text()
        self.of_bases: dict[tuple[str, str], float] = {}

    def compare(self, session: Session, candidate: Candidate) -> Forgetting | None:
        """Return the forgetting of a session; None for a base, and if the base of a run cannot be opened."""
        base = _base_of(session, candidate)
        if base is None:
            return None
        key = (base_digest(base), session.tokenizer.digest)
        if key not in self.of_bases:
            self.of_bases[key] = nats_per_token(_load(base, session), session.tokenizer, self.text)
        after = nats_per_token(session.model, session.tokenizer, self.text)
        return Forgetting(before=self.of_bases[key], after=after)


@torch.inference_mode()
def nats_per_token(model: GPT2, tokenizer: Tokenizer, text: str) -> float:
    """Return the mean loss of a text in nats per token, cut into rows whose first token is not predicted."""
    ids = torch.tensor([tokenizer.eos, *tokenizer.encode(text)], device=model.device)
    length = min(LONGEST_ROW, model.shape.n_positions)
    total, count = 0.0, 0
    for row in torch.split(ids, length):
        hidden = model(row[None, :])[0, :-1]
        losses = token_losses(hidden, model.wte.weight, row[1:])
        total, count = total + float(losses.sum()), count + len(losses)
    return total / count


def _base_of(session: Session, candidate: Candidate) -> Base | None:
    """Return the base that a session was trained from."""
    if session.header is None and candidate.method is None:
        return None
    if not session.method.trains_base:
        return session.base
    name = session.header.base if session.header else ""
    if candidate.run is not None:
        name = candidate.run.model if candidate.run.from_scratch is None else ""
    try:
        return open_base(name) if name else None
    except Interrupted:
        raise
    except ExploraError:
        return None


def _load(base: Base, session: Session) -> GPT2:
    model = load_model(base, dtype=session.model.compute_dtype, device=session.model.device)
    return model.eval()
