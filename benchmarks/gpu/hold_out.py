"""Choose documents that no version of the embedded base was trained on.

Which documents the mixtures of earlier versions took can be computed: `mix.evenly_taken` is deterministic,
and one chosen document in `mix.DEV_EVERY` was dev. A document is free if no part of it was trained on, no
weakly labelled review was made of it, and no long sentence of it stands in another document of the corpora.
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "pretrain"))

from mix import DEV_EVERY, cut, evenly_taken
from verdicts import judged

# Megabytes of each corpus in the mixtures that trained an earlier version; None: all of it. `git log -p
# benchmarks/pretrain/mix.py` has them: of the first version, of the second, and of the third's last phases.
EARLIER: dict[str, tuple[float | None, ...]] = {
    "wiki-1": (45.0,),
    "wiki-2": (12.0, 5.0),
    "prose": (45.0, 12.0, 5.0),
    "reviews": (None, None, 26.0),
    "poetry": (None, None, None),
}
# Characters of each corpus to hold out. Of reviews and poems, only former dev documents are free.
HELD_OUT: dict[str, int] = {"wiki-2": 120_000, "prose": 120_000, "reviews": 60_000, "poetry": 20_000}
SHORTEST = {"wiki-2": 1000, "prose": 1000, "reviews": 300, "poetry": 200}  # characters of a document
LONGEST = 24_000  # characters of a document, so that a few long ones do not decide
SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n")
LONG_SENTENCE = 32  # characters: two documents that share such a sentence or verse share a source


def trained_parts(sizes: Sequence[int], megabytes: float | None) -> set[int]:
    """Return the indices of the parts that one mixture trained on, given the characters of each part."""
    total = sum(sizes) / 1e6
    everything = megabytes is None or megabytes >= total
    taken = [i for i in range(len(sizes)) if everything or evenly_taken(i, megabytes or 0.0, total)]
    return set(taken) - set(taken[::DEV_EVERY])


def never_trained(documents: Sequence[str], mixtures: Sequence[float | None]) -> list[int]:
    """Return the indices of the documents of which no mixture trained on any part."""
    owners: list[int] = []
    sizes: list[int] = []
    for index, document in enumerate(documents):
        for part in cut(document):
            owners.append(index)
            sizes.append(len(part))
    trained = {owners[part] for megabytes in mixtures for part in trained_parts(sizes, megabytes)}
    return [index for index in range(len(documents)) if index not in trained]


def sentences(document: str) -> Iterator[str]:
    """Yield the long sentences of a document, without the space around them."""
    return (text for part in SENTENCE.split(document) if len(text := part.strip()) >= LONG_SENTENCE)


def without_copies(candidates: Sequence[str], others: Iterable[str]) -> list[str]:
    """Return the candidates that share no long sentence with any of the other documents."""
    owners: dict[str, set[int]] = {}
    for index, document in enumerate(candidates):
        for sentence in sentences(document):
            owners.setdefault(sentence, set()).add(index)
    copied = {
        index for other in others for sentence in sentences(other) for index in owners.get(sentence, ())
    }
    return [document for index, document in enumerate(candidates) if index not in copied]


def candidates(name: str, documents: Sequence[str], generator: random.Random) -> list[int]:
    """Return indices of free documents in random order, with twice the characters that are wanted."""
    free = never_trained(documents, EARLIER[name])
    generator.shuffle(free)
    chosen: list[int] = []
    for index in free:
        if sum(len(documents[i]) for i in chosen) > 2 * HELD_OUT[name]:
            break
        fits = SHORTEST[name] <= len(documents[index]) <= LONGEST
        if fits and not (name == "reviews" and judged(documents[index])):
            chosen.append(index)
    return chosen


def first_characters(documents: Iterable[str], characters: int) -> list[str]:
    """Return whole documents from the beginning, with at least this number of characters."""
    chosen: list[str] = []
    for document in documents:
        if sum(map(len, chosen)) >= characters:
            break
        chosen.append(document)
    return chosen


def hold_out(corpora: dict[str, list[str]], seed: int) -> dict[str, list[str]]:
    """Return the held-out documents of each corpus, given all documents of all corpora."""
    generator = random.Random(seed)
    chosen = {name: candidates(name, corpora[name], generator) for name in HELD_OUT}
    apart = {name: set(indices) for name, indices in chosen.items()}
    others = [
        document
        for name, documents in corpora.items()
        for index, document in enumerate(documents)
        if index not in apart.get(name, ())
    ]
    return {
        name: first_characters(without_copies([corpora[name][i] for i in indices], others), HELD_OUT[name])
        for name, indices in chosen.items()
    }
