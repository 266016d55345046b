"""Scores of continued poems: likeness to the poet's text, form of verse, and those of a trivial answer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from explora.core.tasks.metrics import Score, bleu, chrf, signatures
from explora.core.tasks.pronunciation import INSTALL, has_dictionary
from explora.core.tasks.verse_form import BY_SOUND, Poem, form_scores

TAIL_DRAWS = 20


@dataclass(frozen=True, kw_only=True)
class ContinuationScoring:
    r"""What continuations are scored with.

    `prompts` are the given lines, each ending with \n. `references` are the poets' own continuations.
    `training` are the poems of the training set, `tails` what follows their first lines.
    """

    prompts: Sequence[str]
    references: Sequence[str]
    training: Sequence[str]
    tails: Sequence[str]

    def similarity(self, texts: Sequence[str]) -> dict[str, Score]:
        """Return BLEU and chrF of the continuations alone, and as `course_...` with the given lines."""
        whole, poems = self._whole(texts), self._whole(self.references)
        return {
            "bleu": bleu(texts, self.references),
            "chrf": chrf(texts, self.references),
            "course_bleu": bleu(whole, poems),
            "course_chrf": chrf(whole, poems),
        }

    def form(self, texts: Sequence[str]) -> dict[str, Score]:
        """Return the scores of form of the poems that the continuations complete."""
        poems = [
            Poem(lines=[line for line in whole.split("\n") if line.strip()], given=prompt.count("\n"))
            for prompt, whole in zip(self.prompts, self._whole(texts), strict=True)
        ]
        return form_scores(poems, self.training)

    def tail_scores(self, seed: int) -> dict[str, float]:
        """Return the mean scores of a trivial answer: the tail of a random training poem for each prompt.

        Empty where no training poem has a tail.
        """
        if not self.tails:
            return {}
        generator, total = random.Random(seed), dict[str, float]()
        for _ in range(TAIL_DRAWS):
            drawn = [generator.choice(self.tails) for _ in self.prompts]
            for name, score in (self.similarity(drawn) | self.form(drawn)).items():
                total[name] = total.get(name, 0.0) + score.value / TAIL_DRAWS
        return total

    def _whole(self, texts: Sequence[str]) -> list[str]:
        return [prompt + text for prompt, text in zip(self.prompts, texts, strict=True)]


def scoring_notes() -> tuple[str, ...]:
    """Return how BLEU and chrF were computed, and which scores a missing package leaves out."""
    notes = [f"{name}: 0 to 100, sacrebleu's {signature}" for name, signature in signatures().items()]
    if not has_dictionary():
        notes.append(f"left out: {', '.join(BY_SOUND)} (they need {INSTALL})")
    return tuple(notes)
