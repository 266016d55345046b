"""Pairs of continuations whose writers are hidden: a seed chooses the order of the two."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two continuations of a prompt in the order in which they are shown.

    `a_first`: the first is A's; this must stay hidden from the judge. `id` names the prompt.
    """

    id: str
    prompt: str
    first: str
    second: str
    a_first: bool

    @property
    def key(self) -> str:
        """Digest of the texts and their order, so that a vote counts only for exactly these."""
        seen = json.dumps([self.prompt, self.first, self.second])
        return hashlib.sha256(seen.encode()).hexdigest()[:16]


def make_pairs(
    ids: Sequence[str], prompts: Sequence[str], texts_a: Sequence[str], texts_b: Sequence[str], seed: int
) -> list[Pair]:
    """Pair two continuations of each prompt; equal continuations are left out.

    Indentation and characters that cannot be printed are removed, because they could distinguish a model from
    a person.
    """
    places = [number % 2 == 0 for number in range(len(ids))]  # each writer is first in half of the pairs
    random.Random(seed).shuffle(places)
    pairs = []
    for name, prompt, text_a, text_b, a_first in zip(ids, prompts, texts_a, texts_b, places, strict=True):
        a, b = _plain(text_a), _plain(text_b)
        first, second = (a, b) if a_first else (b, a)
        if a != b:
            pairs.append(Pair(id=name, prompt=_plain(prompt), first=first, second=second, a_first=a_first))
    return pairs


def _plain(text: str) -> str:
    lines = ("".join(filter(str.isprintable, line)) for line in text.split("\n"))
    return "\n".join(line.strip() for line in lines).strip("\n")
