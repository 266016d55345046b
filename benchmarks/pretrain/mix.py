"""Mix the corpora of the embedded base into one file of documents, in an order drawn from a seed.

    python benchmarks/pretrain/mix.py CORPORA FOLDER

writes FOLDER/train.txt.xz and FOLDER/dev.txt.xz, which share no document. CORPORA holds wiki-1, wiki-2,
prose, poetry, reviews, questions and more-sonnets (.txt.xz). Each document is at most `LONGEST` characters,
so that no single book fills a whole stretch of training.
"""

from __future__ import annotations

import argparse
import json
import lzma
import random
from collections.abc import Iterator
from pathlib import Path

from explora.core.documents import read_documents

LONGEST = 6000  # characters of a document: longer ones are cut at a line
QUESTIONS_TOGETHER = 12  # a question alone is too short to be a document
DEV_EVERY = 400  # one document in 400 is dev, taken before any is repeated

# corpus -> megabytes of it to take (None: all) and how often
MIX: dict[str, tuple[float | None, int]] = {
    "reviews": (None, 1),
    "questions": (None, 2),
    "poetry": (None, 1),
    "more-sonnets": (None, 2),
    "prose": (45.0, 1),
    "wiki-1": (45.0, 1),
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


def together(items: Iterator[str], count: int) -> Iterator[str]:
    """Join `count` items at a time, one a line."""
    group: list[str] = []
    for item in items:
        group.append(item)
        if len(group) == count:
            yield "\n".join(group)
            group = []
    if group:
        yield "\n".join(group)


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


def portion(corpora: Path, name: str, megabytes: float | None) -> list[str]:
    """Return the documents of one corpus, evenly spread over it where only a part is wanted."""
    path = corpora / f"{name}.txt.xz"
    if name == "questions":
        return list(together(read_questions(path), QUESTIONS_TOGETHER))
    documents = [part for document in read_documents(path) for part in cut(document)]
    total = sum(len(document) for document in documents) / 1e6
    if megabytes is None or megabytes >= total:
        return documents
    return [
        d for i, d in enumerate(documents) if int(i * megabytes / total) != int((i + 1) * megabytes / total)
    ]


def main() -> None:
    """Write the mixture and say what went in."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpora", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=11711)
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)
    train: list[str] = []
    dev: list[str] = []
    for name, (megabytes, times) in MIX.items():
        documents = portion(arguments.corpora, name, megabytes)
        size = sum(len(document) for document in documents) / 1e6
        print(f"{name:14} {len(documents):8} documents {size:7.1f} M characters x {times}")
        dev += documents[::DEV_EVERY]
        train += [document for i, document in enumerate(documents) if i % DEV_EVERY] * times
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for split, documents in (("train", train), ("dev", dev)):
        generator.shuffle(documents)
        with lzma.open(arguments.folder / f"{split}.txt.xz", "wt", encoding="utf-8", preset=0) as out:
            out.writelines(document + "\n\n" for document in documents)


if __name__ == "__main__":
    main()
