"""Make reviews with weak labels from what their writers say outright: a mark, a phrase of praise or blame.

    python benchmarks/pretrain/verdicts.py CORPORA FOLDER

writes FOLDER/verdicts.txt.xz, one review a document. The sentences that give the verdict away are taken
out, and the answer to "Good?" stands at the end. Reviews that say both or neither are left out.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

from making import arguments_parser, write_documents

from explora.core.data.documents import stream_documents

LONGEST = 900  # characters: the answer shall see all of the review in a row of 256 tokens
SHORTEST = 120
TEMPLATES = [
    "{review}\nGood? ",
    '"{review}" Is this praise? Answer "yes" or "no": ',
    "{review}\nWorth seeing? ",
]
MARK = re.compile(r"\b(\d+(?:\.\d)?) ?(?:/|out of) ?(\d+)(?: stars)?\b|\b(\d|one|two|four|five) stars?\b")
PRAISE = re.compile(
    r"highly recommend|strongly recommend|must[- ]see|one of the best|masterpiece|i loved (?:it|this)|"
    r"(?:great|excellent|wonderful|fantastic|brilliant|superb|amazing) (?:film|movie|picture)|loved this|"
    r"one of my favou?rite|i really enjoyed|thoroughly enjoy|well worth|a gem\b|simply (?:brilliant|superb)|"
    r"best (?:film|movie)s? (?:i|of)|don't miss|do not miss|an absolute (?:joy|delight)|10 stars",
    re.IGNORECASE,
)
BLAME = re.compile(
    r"waste (?:of|your|my)|the worst|one of the worst|worst (?:film|movie)|avoid (?:this|it|at)|i hated|"
    r"(?:terrible|awful|horrible|bad|dreadful|lousy|pathetic|stupid|boring) (?:film|movie|picture)|"
    r"(?:film|movie) (?:is|was) (?:terrible|awful|horrible|boring|bad|dreadful|garbage|crap)|don't bother|"
    r"do not bother|stay away|not worth|pile of|piece of (?:crap|junk|trash)|utter (?:rubbish|garbage)|"
    r"walked out|save your money|very disappoint|skip (?:this|it)|unwatchable|so bad",
    re.IGNORECASE,
)
NUMBERS = {"one": 1.0, "two": 2.0, "four": 4.0, "five": 5.0}
SENTENCE = re.compile(r"(?<=[.!?])\s+")


def mark(sentence: str) -> bool | None:
    """Return whether a mark in a sentence is high or low; None where there is none or it is in between."""
    found = MARK.search(sentence.lower())
    if not found:
        return None
    if found[3]:
        value, most = NUMBERS.get(found[3]) or float(found[3]), 5.0
    else:
        value, most = float(found[1]), float(found[2])
    if most not in (4, 5, 10, 100) or value > most:
        return None
    share = value / most
    return None if 0.45 < share < 0.68 else share > 0.5


def verdict(sentence: str) -> set[bool]:
    """Return the verdicts that a sentence gives away."""
    found = {True} if PRAISE.search(sentence) else set[bool]()
    if BLAME.search(sentence):
        found.add(False)
    marked = mark(sentence)
    return found if marked is None else found | {marked}


def judged(review: str) -> tuple[str, bool] | None:
    """Return what is left of a review and its verdict, or None where it has no clear one."""
    sentences = SENTENCE.split(" ".join(review.split()))
    verdicts = [verdict(sentence) for sentence in sentences]
    all_of_them = set[bool]().union(*verdicts)
    if len(all_of_them) != 1:
        return None
    left = [sentence for sentence, found in zip(sentences, verdicts, strict=True) if not found]
    kept: list[str] = []
    for sentence in reversed(left):  # reviewers conclude at the end
        if sum(map(len, kept)) + len(sentence) > LONGEST:
            break
        kept.insert(0, sentence)
    text = " ".join(kept)
    return (text, all_of_them.pop()) if len(text) >= SHORTEST else None


def make_verdicts(corpora: Path, generator: random.Random) -> list[tuple[str, bool]]:
    """Return as many good reviews as bad ones, shuffled."""
    found = [item for review in stream_documents(corpora / "reviews.txt.xz") if (item := judged(review))]
    generator.shuffle(found)
    good, bad = ([item for item in found if item[1] is wanted] for wanted in (True, False))
    count = min(len(good), len(bad))
    chosen = good[:count] + bad[:count]
    generator.shuffle(chosen)
    return chosen


def main() -> None:
    """Write the reviews and say how many there are."""
    arguments = arguments_parser(__doc__).parse_args()
    generator = random.Random(arguments.seed)
    reviews = make_verdicts(arguments.corpora, generator)
    print(f"{len(reviews)} reviews with a verdict, half of them good")
    documents = (
        generator.choice(TEMPLATES).format(review=text) + (" yes" if good else " no")
        for text, good in reviews
    )
    write_documents(arguments.folder / "verdicts.txt.xz", documents)


if __name__ == "__main__":
    main()
