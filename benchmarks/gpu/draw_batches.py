"""The batches of each phase of the pretraining, and their losses by number."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from draw_rows import AnsweredRows, PairRows, TextRows
from pack_tokens import Ids
from torch import Tensor
from train_phases import Loss
from weigh_answers import answer_loss, language_loss, margin_of

from explora.core.base.tokenizer import Tokenizer
from explora.core.model.gpt2 import GPT2

# How often an epoch reads a segment.
TEXT = {"questions": 1, "reviews": 1, "prose": 1, "poetry": 2, "more-sonnets": 2, "wiki-1": 1, "wiki-2": 1}
ANSWERED_EVERY = 4  # rows: more would read the few labelled rows too often
ANSWERED = ("cloze", "pairs", "verdicts")


class Batches:
    """Makes the loss functions of the phases.

    rows: of `length` tokens a batch of text; pairs: of up to `pair_length` tokens a batch of pairs.
    """

    def __init__(
        self,
        ids: dict[str, Ids],
        tokenizer: Tokenizer,
        device: torch.device,
        *,
        rows: int,
        length: int,
        pairs: int,
        pair_length: int,
    ) -> None:
        self.ids, self.end, self.device = ids, tokenizer.eos, device
        self.rows, self.length, self.pairs, self.pair_length = rows, length, pairs, pair_length
        (self.space,), (self.no,), (self.yes,) = (tokenizer.encode(word) for word in (" ", "no", "yes"))
        self.language_loss: Callable[..., Tensor] = language_loss

    def compile(self) -> None:
        """Compile the loss over the whole vocabulary, so that its softmax is fused."""
        self.language_loss = torch.compile(language_loss, dynamic=False)

    def of_text(self, seed: int) -> Loss:
        """Return the loss of rows of text."""
        texts = self._texts(self.rows, seed)
        return lambda model, number: self._row_loss(model, texts.batch(number))

    def of_text_and_answers(self, seed: int) -> Loss:
        """Return the loss of rows of text, and of answered documents in one row of ANSWERED_EVERY."""
        few = self.rows // ANSWERED_EVERY
        texts = self._texts(self.rows - few, seed)
        answered_ids = np.concatenate([self.ids[name] for name in ANSWERED])
        answered = AnsweredRows(answered_ids, self.end, self.length, few, seed, self.device)

        def loss(model: GPT2, number: int) -> Tensor:
            return self._row_loss(model, torch.cat([texts.batch(number), answered.batch(number)]))

        return loss

    def of_pairs(self, seed: int) -> Loss:
        """Return the loss of the answers to single pairs."""
        pairs = PairRows(self.ids["cloze"], self.end, self.pair_length, self.pairs, seed, self.device)

        def loss(model: GPT2, number: int) -> Tensor:
            margin, is_yes = self._answer(model, pairs, number)
            return answer_loss(margin, is_yes)

        return loss

    @torch.no_grad()
    def pair_accuracy(self, model: GPT2) -> float:
        """Return the share of right answers to the pairs that were set aside; their labels are weak."""
        pairs = PairRows(self.ids["cloze-dev"], self.end, self.pair_length, self.pairs, 0, self.device)
        answers = [self._answer(model, pairs, number) for number in range(pairs.shuffled.batches)]
        right = [((margin > 0) == is_yes).float().mean() for margin, is_yes in answers]
        return float(torch.stack(right).mean())

    def _texts(self, rows: int, seed: int) -> TextRows:
        segments = [(self.ids[name], times) for name, times in TEXT.items()]
        return TextRows(segments, self.length, rows, seed, self.device)

    def _row_loss(self, model: GPT2, ids: Tensor) -> Tensor:
        hidden = model(ids[:, :-1])
        return self.language_loss(hidden, model.wte.weight, ids, self.space, self.no, self.yes)

    def _answer(self, model: GPT2, pairs: PairRows, number: int) -> tuple[Tensor, Tensor]:
        prompts, last, answers = pairs.batch(number)
        # These shapes differ from those of the text: compiling for them takes longer than the phase.
        with torch.compiler.set_stance("force_eager"):
            hidden = model(prompts)
        hidden = hidden[torch.arange(len(last), device=last.device), last]
        return margin_of(hidden, model.wte.weight, self.no, self.yes), answers == self.yes
