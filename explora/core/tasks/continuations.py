"""Scores of continued poems, whoever wrote them: similarity to the poet's own text, and form of verse."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from statistics import fmean

from explora.core.config.registry import SONNET_LINES
from explora.core.tasks.metrics import Score, bleu, chrf, signatures
from explora.core.tasks.pronunciation import INSTALL, has_dictionary
from explora.core.tasks.trivial import values_of
from explora.core.tasks.verse_form import BY_SOUND, Poem, form_scores

DRAWS = 20  # random poems whose ends are scored for every poem
ANOTHER_POEM = "another poem's end"
THE_GIVEN_LINES = "given lines again"


@dataclass(frozen=True, kw_only=True)
class ContinuationScoring:
    """The data for scoring continuations.

    `prompts` are the given lines, each ending with \n. `references` are the poets' own continuations.
    `training` are the poems of the training set, and `tails` the text after their first lines.
    """

    prompts: Sequence[str]
    references: Sequence[str]
    training: Sequence[str]
    tails: Sequence[str]

    def scores(self, texts: Sequence[str]) -> dict[str, Score]:
        """Return all scores of one continuation of each prompt."""
        return self.likeness(texts) | self.form(texts)

    def likeness(self, texts: Sequence[str]) -> dict[str, Score]:
        """Return BLEU and chrF of the continuations alone and, with the prefix `course_`, of whole poems."""
        whole, poems = self._whole(texts), self._whole(self.references)
        return {
            "bleu": bleu(texts, self.references),
            "chrf": chrf(texts, self.references),
            "course_bleu": bleu(whole, poems),
            "course_chrf": chrf(whole, poems),
        }

    def form(self, texts: Sequence[str]) -> dict[str, Score]:
        """Return the scores of form for the poems that the continuations complete."""
        poems = [
            Poem(lines=[line for line in whole.split("\n") if line.strip()], given=prompt.count("\n"))
            for prompt, whole in zip(self.prompts, self._whole(texts), strict=True)
        ]
        return form_scores(poems, self.training)

    def trivial(self, seed: int) -> dict[str, dict[str, float]]:
        """Return the scores of texts that need no model, by answer and metric.

        The continuation of each poem is the end of a random training poem; the scores are means of 20 draws.
        """
        found = {THE_GIVEN_LINES: values_of(self.scores([_repeated(prompt) for prompt in self.prompts]))}
        if not self.tails:
            return found
        generator = random.Random(seed)
        draws = [
            values_of(self.scores([generator.choice(self.tails) for _ in self.prompts])) for _ in range(DRAWS)
        ]
        return {ANOTHER_POEM: {name: fmean(draw[name] for draw in draws) for name in draws[0]}} | found

    def _whole(self, texts: Sequence[str]) -> list[str]:
        return [prompt + text for prompt, text in zip(self.prompts, texts, strict=True)]


def _repeated(prompt: str) -> str:
    """Repeat the given lines until the poem has fourteen lines."""
    lines = prompt.splitlines()
    return "\n".join(islice(cycle(lines), SONNET_LINES - len(lines)))


def scoring_notes() -> list[str]:
    """Return notes on how BLEU and chrF are computed, and on scores that need a missing package."""
    notes = [f"{name}: 0 to 100, sacrebleu's {signature}" for name, signature in signatures().items()]
    if not has_dictionary():
        notes.append(f"left out: {', '.join(BY_SOUND)} (they need {INSTALL})")
    return notes
