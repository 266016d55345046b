"""Mix the corpora of the embedded base into one file of documents, in an order drawn from a seed.

    python benchmarks/pretrain/mix.py CORPORA FOLDER

writes FOLDER/train.txt.xz and FOLDER/dev.txt.xz, which share no document. CORPORA holds wiki-1, wiki-2,
prose, poetry, reviews, questions and more-sonnets (.txt.xz). Each document is at most `LONGEST` characters,
so that no single book fills a whole stretch of training. Questions stand beside the questions most like them
(by TF-IDF; in-context pretraining, Shi et al. 2023), which teaches the model to compare. Needs scikit-learn.
"""

from __future__ import annotations

import json
import lzma
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from making import arguments_parser, write_documents

from explora.core.data.documents import stream_documents

LONGEST = 6000  # characters of a document: longer ones are cut at a line
QUESTIONS_TOGETHER = 12  # a question alone is too short to be a document
ALIKE = 0.25  # cosine similarity from which questions share a document
DEV_EVERY = 400  # one document in 400 is dev, taken before any is repeated

# corpus -> megabytes of it to take (None: all) and how often
MIX: dict[str, tuple[float | None, int]] = {
    "reviews": (None, 1),
    "questions": (None, 3),
    "poetry": (None, 1),
    "more-sonnets": (None, 2),
    "prose": (12.0, 1),
    "wiki-2": (12.0, 1),
}

# of the last phase, which has answered documents beside it
LAST: dict[str, tuple[float | None, int]] = {
    "reviews": (26.0, 1),
    "poetry": (None, 1),
    "more-sonnets": (None, 4),
    "prose": (5.0, 1),
    "wiki-2": (5.0, 1),
}


def read_questions(path: Path) -> Iterator[str]:
    """Yield questions one by one; the corpus has some as JSON objects."""
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            text = line.strip()
            if text.startswith('{"question"'):
                text = str(json.loads(text)["question"])
            if text:
                yield text


def nearest(questions: list[str], count: int) -> Iterator[list[int]]:
    """Yield for each question the `count` most similar ones, itself among them, the most similar first."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # only here: nothing else needs scikit-learn

    # words in more than one question of a hundred say little and make the product dense
    rows = TfidfVectorizer(min_df=2, max_df=0.01, ngram_range=(1, 2), dtype=np.float32).fit_transform(
        questions
    )
    columns = rows.T.tocsc()
    for start in range(0, len(questions), 500):
        for row in (rows[start : start + 500] @ columns).tocsr():
            best = np.argsort(-row.data)[:count]
            yield [int(i) for i in row.indices[best][row.data[best] > ALIKE]]


def beside_alike(questions: list[str], generator: random.Random) -> list[str]:
    """Return documents of questions, one a line: groups of similar ones, then the rest in any company."""
    neighbours = list(nearest(questions, 2 * QUESTIONS_TOGETHER))
    order = list(range(len(questions)))
    generator.shuffle(order)
    taken = [False] * len(questions)
    groups: list[list[int]] = []
    alone: list[int] = []
    for seed in order:
        if taken[seed]:
            continue
        group = [seed, *(i for i in neighbours[seed] if i != seed and not taken[i])]
        group = group[: generator.randint(2, QUESTIONS_TOGETHER)]
        for i in group:
            taken[i] = True
        if len(group) == 1:
            alone.append(seed)
        else:
            generator.shuffle(group)
            groups.append(group)
    groups += [alone[i : i + QUESTIONS_TOGETHER] for i in range(0, len(alone), QUESTIONS_TOGETHER)]
    return ["\n".join(questions[i] for i in group) for group in groups]


def cut(document: str) -> Iterator[str]:
    """Cut a long document at line ends."""
    part: list[str] = []
    size = 0
    for line in document.split("\n"):
        if part and size + len(line) > LONGEST:
            yield "\n".join(part)
            part, size = [], 0
        part.append(line)
        size += len(line)
    yield "\n".join(part)


def evenly_taken(index: int, megabytes: float, total: float) -> bool:
    """Tell whether `megabytes` of `total`, evenly spread, include the document of this index."""
    return int(index * megabytes / total) != int((index + 1) * megabytes / total)


def portion(corpora: Path, name: str, megabytes: float | None, generator: random.Random) -> list[str]:
    """Return the documents of one corpus, evenly spread over it where only a part is wanted."""
    path = corpora / f"{name}.txt.xz"
    if name == "questions":
        return beside_alike(list(read_questions(path)), generator)
    documents = [part for document in stream_documents(path) for part in cut(document)]
    total = sum(len(document) for document in documents) / 1e6
    if megabytes is None or megabytes >= total:
        return documents
    return [document for i, document in enumerate(documents) if evenly_taken(i, megabytes, total)]


def main() -> None:
    """Write the mixture and say what went in."""
    parser = arguments_parser(__doc__)
    parser.add_argument("--last", action="store_true", help="the mixture of the last phase")
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)
    train: list[str] = []
    dev: list[str] = []
    for name, (megabytes, times) in (LAST if arguments.last else MIX).items():
        documents = portion(arguments.corpora, name, megabytes, generator)
        size = sum(len(document) for document in documents) / 1e6
        print(f"{name:14} {len(documents):8} documents {size:7.1f} M characters x {times}")
        dev += documents[::DEV_EVERY]
        train += [document for i, document in enumerate(documents) if i % DEV_EVERY] * times
    for split, documents in (("train", train), ("dev", dev)):
        generator.shuffle(documents)
        write_documents(arguments.folder / f"{split}.txt.xz", documents)


if __name__ == "__main__":
    main()
