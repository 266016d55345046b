"""Make pairs of questions with weak labels, so that the base learns to compare two sentences.

    python benchmarks/pretrain/pairs.py CORPORA FOLDER

writes FOLDER/pairs.txt.xz, one pair a document: two questions in a template and the answer yes or no, and
those in explora's own template again as cloze.tsv and cloze-dev.tsv, for `explora train paraphrase`. No
person and no model labelled them. A pair is *same* where one question is the other rewritten
(`rewriting.py`), or where two questions of the corpus share nearly all their words, weighted by rarity;
it is *different* where a word was replaced, or where neighbours by TF-IDF share too little. Needs
scikit-learn.
"""

from __future__ import annotations

import csv
import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from making import arguments_parser, write_documents
from mix import nearest, read_questions
from rewriting import STOPS, SYNONYMS, Rewriter, stem, words

from explora.core.config.registry import PARAPHRASE_TEMPLATE

CLOZE_DEV = 1500  # pairs
LONGEST = 160  # characters of a question
NEIGHBOURS = 8
SAME = 0.75  # share of the words, by weight, from which neighbours are weakly the same
DIFFERENT = (0.05, 0.45)  # and between which they are different; less would be too easy
# Templates end with a space, and the answer has one of its own: `pretext.py` makes one token of it.
TEMPLATES = [PARAPHRASE_TEMPLATE] * 6 + [
    'Do "{sentence1}" and "{sentence2}" mean the same? Answer "yes" or "no": ',
    "Question 1: {sentence1}\nQuestion 2: {sentence2}\nThe same question? ",
    '"{sentence1}" / "{sentence2}": the same meaning? ',
]


class Overlap:
    """How much of the words two questions share, weighted by rarity."""

    def __init__(self, questions: Sequence[str]) -> None:
        self.canonical = {member: line.split()[0] for line in reversed(SYNONYMS) for member in line.split()}
        self.keys = [self._key(question) for question in questions]
        self.counts = Counter(key for keys in self.keys for key in keys)
        self.total = len(questions)

    def _key(self, question: str) -> frozenset[str]:
        return frozenset(
            stem(self.canonical.get(word, word))
            for word in (spelled.split("'")[0] for spelled in words(question))
            if word not in STOPS
        )

    def __call__(self, one: int, other: int) -> float:
        """Return the weight of the shared words over that of all words of both."""
        union = self._weight(self.keys[one] | self.keys[other])
        return self._weight(self.keys[one] & self.keys[other]) / union if union else 0.0

    def _weight(self, keys: frozenset[str]) -> float:
        # exactly, so that the order of a set, which each process draws anew, changes no label
        return math.fsum(math.log(self.total / (1 + self.counts[key])) for key in keys)


def neighbour_pairs(questions: Sequence[str], generator: random.Random) -> Iterator[tuple[int, int, bool]]:
    """Yield pairs of neighbouring questions with their weak label; those in between are left out."""
    shared = Overlap(questions)
    for one, neighbours in enumerate(nearest(list(questions), NEIGHBOURS + 1)):
        for other in neighbours:
            if other == one or (other < one and generator.random() < 0.5):
                continue
            share = shared(one, other)
            if share >= SAME:
                yield one, other, True
            elif DIFFERENT[0] <= share < DIFFERENT[1]:
                yield one, other, False


def make_pairs(questions: list[str], generator: random.Random) -> list[tuple[str, str, bool]]:
    """Return the pairs of all kinds, shuffled."""
    rewriter = Rewriter(questions, generator)
    pairs: list[tuple[str, str, bool]] = []

    def maybe(question: str, chance: float) -> str:
        return rewriter.same(question, generator.randint(1, 2)) if generator.random() < chance else question

    near = list(neighbour_pairs(questions, generator))
    same = [pair for pair in near if pair[2]]
    different = [pair for pair in near if not pair[2]]
    different = generator.sample(different, min(len(different), len(questions) // 3))
    pairs += [(maybe(questions[a], 0.3), maybe(questions[b], 0.3), label) for a, b, label in same + different]
    for question in questions:
        kind = generator.random()
        if kind < 0.50:
            pairs.append((maybe(question, 0.5), rewriter.same(question, generator.randint(1, 5)), True))
        elif kind < 0.85:
            other = rewriter.different(question)
            if other is not None:
                pairs.append((maybe(question, 0.3), maybe(other, 0.6), False))
        elif kind < 0.89:
            pairs.append((question, generator.choice(questions), False))
    generator.shuffle(pairs)
    # either order, so that the changed question is not always the second
    return [(b, a, label) if generator.random() < 0.5 else (a, b, label) for a, b, label in pairs if a != b]


def filled(template: str, pair: tuple[str, str, bool]) -> str:
    """Return a pair in a template, with its answer."""
    one, other, label = pair
    return template.format(sentence1=one, sentence2=other) + (" yes" if label else " no")


def write_table(path: Path, pairs: Sequence[tuple[str, str, bool]]) -> None:
    """Write pairs as `explora train paraphrase` reads them."""
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, delimiter="\t")
        writer.writerow(["sentence1", "sentence2", "label"])
        writer.writerows((one, other, "yes" if label else "no") for one, other, label in pairs)


def usable(path: Path) -> list[str]:
    """Return the questions of the corpus, each once, without those that are too long or too short."""
    found = dict.fromkeys(question.strip('"').strip() for question in read_questions(path))
    return [question for question in found if len(question) <= LONGEST and len(question.split()) >= 3]


def main() -> None:
    """Write the pairs and say how many there are."""
    arguments = arguments_parser(__doc__).parse_args()
    generator = random.Random(arguments.seed)
    questions = usable(arguments.corpora / "questions.txt.xz")
    pairs = make_pairs(questions, generator)
    same = sum(label for _, _, label in pairs)
    print(f"{len(questions)} questions, {len(pairs)} pairs, {same} of them the same")
    templates = [generator.choice(TEMPLATES) for _ in pairs]
    documents = (filled(*item) for item in zip(templates, pairs, strict=True))
    write_documents(arguments.folder / "pairs.txt.xz", documents)
    in_cloze = [
        pair for template, pair in zip(templates, pairs, strict=True) if template is PARAPHRASE_TEMPLATE
    ]
    random.Random(1).shuffle(in_cloze)
    write_table(arguments.folder / "cloze-dev.tsv", in_cloze[:CLOZE_DEV])
    write_table(arguments.folder / "cloze.tsv", in_cloze[CLOZE_DEV:])


if __name__ == "__main__":
    main()
