"""Choose, encode and pack the text that a better embedded base is trained on, on a CPU.

    python benchmarks/gpu/pack_corpus.py CORPORA FOLDER --data DATA [--megabytes 40]

CORPORA holds the files of benchmarks/pretrain (its README), DATA the data sets that the base is judged on:
their texts are left out. FOLDER gets files of token ids (`pack_tokens.py`), a held-out text that no version
of the base was trained on (`hold_out.py`) as ids and as held-out.txt.xz, and manifest.json. The ids are those
of the shipped vocabulary: one trained on this mixture needs only 0.08 % fewer tokens. Needs scikit-learn.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from avoid_data_sets import is_known, known_keys
from hold_out import HELD_OUT, hold_out
from pack_tokens import Ids, write_ids, write_manifest

sys.path.append(str(Path(__file__).parents[1] / "pretrain"))

from making import write_documents
from mix import DEV_EVERY, beside_alike, cut, evenly_taken
from pairs import CLOZE_DEV, make_pairs, usable
from pairs import TEMPLATES as PAIR_TEMPLATES
from verdicts import TEMPLATES as VERDICT_TEMPLATES
from verdicts import make_verdicts

from explora.core.base.find import base_tokenizer, open_base
from explora.core.base.tokenizer import Tokenizer
from explora.core.config.registry import PARAPHRASE_TEMPLATE
from explora.core.data.documents import stream_documents

SEED = 11711
WHOLE = 40.0  # MiB: what MIXTURE and all pairs and verdicts take
# Megabytes of characters. Reviews for sentiment, poetry for sonnets; prose and Wikipedia fill the rest.
MIXTURE = {
    "questions": 12.0,
    "reviews": 70.0,
    "prose": 38.0,
    "poetry": 8.0,
    "more-sonnets": 0.3,
    "wiki-1": 14.0,
    "wiki-2": 14.0,
}
FILES = {
    "questions": ("questions", "cloze", "cloze-dev", "pairs"),
    "reviews": ("reviews", "verdicts"),
    "books": ("prose", "poetry", "more-sonnets"),
    "wikipedia": ("wiki-1", "wiki-2"),
    "measured": ("dev", *(f"held-out-{name}" for name in HELD_OUT)),
}
HELD_OUT_FILES = ("measured.ids.xz", "held-out.txt.xz")  # as large whatever the limit is
DOCUMENTS_AT_ONCE = 1000
FITS = 0.98  # of the text that would fit by the last size: smaller samples pack a little worse


class Encoder:
    """The shipped vocabulary: documents and answered prompts to ids, each ending with end-of-text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.answers = [*tokenizer.encode("no"), *tokenizer.encode("yes")]

    def documents(self, documents: Iterable[str]) -> Ids:
        """Return the ids of documents."""
        return self._joined((document, ()) for document in documents)

    def answered(self, prompts: Iterable[tuple[str, bool]]) -> Ids:
        """Return the ids of prompts that end with a space, each with its answer, the bare word no or yes."""
        return self._joined((prompt, (self.answers[answer],)) for prompt, answer in prompts)

    def _joined(self, texts: Iterable[tuple[str, tuple[int, ...]]]) -> Ids:
        rest, parts = iter(texts), [np.empty(0, np.uint16)]
        while portion := list(islice(rest, DOCUMENTS_AT_ONCE)):
            encoded = self.tokenizer.encode_batch([text for text, _ in portion])
            ends = ((*end, self.tokenizer.eos) for _, end in portion)
            rows = zip(encoded, ends, strict=True)
            parts.append(np.fromiter((token for row, end in rows for token in (*row, *end)), np.uint16))
        return np.concatenate(parts)


def read_corpora(folder: Path) -> dict[str, list[str]]:
    """Return the documents of each corpus; questions one by one, each once."""
    corpora = {
        name: list(stream_documents(folder / f"{name}.txt.xz")) for name in MIXTURE if name != "questions"
    }
    return {**corpora, "questions": usable(folder / "questions.txt.xz")}


def first_megabytes(documents: Iterable[str], megabytes: float) -> Iterator[str]:
    """Yield documents up to a number of megabytes of characters."""
    left = megabytes * 1e6
    for document in documents:
        left -= len(document)
        if left < 0:
            return
        yield document


def evenly(documents: Sequence[str], megabytes: float) -> list[str]:
    """Return parts of documents, evenly spread over a corpus, up to a number of megabytes of characters."""
    parts = [part for document in documents for part in cut(document)]
    total = sum(map(len, parts)) / 1e6
    if megabytes >= total:
        return parts
    return [part for index, part in enumerate(parts) if evenly_taken(index, megabytes, total)]


def split_dev(documents: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the documents to train on, and one in DEV_EVERY to measure progress with."""
    return [d for i, d in enumerate(documents) if i % DEV_EVERY], list(documents[::DEV_EVERY])


def choose_text(corpora: dict[str, list[str]], scale: float) -> tuple[dict[str, list[str]], list[str]]:
    """Return the documents of each corpus to train on, and those of dev."""
    train: dict[str, list[str]] = {}
    dev: list[str] = []
    for name, megabytes in MIXTURE.items():
        if name == "questions":
            asked = list(first_megabytes(corpora[name], megabytes * scale))
            chosen = beside_alike(asked, random.Random(SEED))
        else:
            chosen = evenly(corpora[name], megabytes * scale)
        train[name], measured = split_dev(chosen)
        dev += measured
    return train, dev


def choose_answered(corpora: Path, questions: list[str], scale: float) -> dict[str, list[tuple[str, bool]]]:
    """Return weakly labelled pairs and reviews as prompts with answers; see benchmarks/pretrain/README.md."""
    generator = random.Random(SEED)
    prompts: dict[str, list[tuple[str, bool]]] = {"cloze": [], "pairs": []}
    for one, other, same in make_pairs(questions, generator):
        template = generator.choice(PAIR_TEMPLATES)
        kind = "cloze" if template is PARAPHRASE_TEMPLATE else "pairs"
        prompts[kind].append((template.format(sentence1=one, sentence2=other), same))
    dev = min(CLOZE_DEV, len(prompts["cloze"]) // 10)
    prompts["cloze-dev"], prompts["cloze"] = prompts["cloze"][:dev], prompts["cloze"][dev:]
    reviews = make_verdicts(corpora, generator)
    reviews = reviews[: int(len(reviews) * min(1.0, scale))]
    prompts["verdicts"] = [
        (with_space(generator.choice(VERDICT_TEMPLATES).format(review=text)), good) for text, good in reviews
    ]
    return prompts


def with_space(prompt: str) -> str:
    """Return a prompt that ends with one space."""
    return prompt.rstrip(" ") + " "


def keep_apart(
    corpora: dict[str, list[str]], keys: set[str]
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return the corpora without texts of the data sets and without the held-out text, and that text."""
    allowed = {name: [d for d in documents if not is_known(d, keys)] for name, documents in corpora.items()}
    held = hold_out(allowed, SEED)
    apart = {document for documents in held.values() for document in documents}
    return {name: [d for d in documents if d not in apart] for name, documents in allowed.items()}, held


def write_all(
    folder: Path,
    train: dict[str, list[str]],
    measured: dict[str, list[str]],
    answered: dict[str, list[tuple[str, bool]]],
) -> int:
    """Encode and write all segments and the manifest, and return the bytes of the folder."""
    tokenizer = base_tokenizer(open_base("embedded"))
    encoder, texts = Encoder(tokenizer), {**train, **measured}
    segments = {name: encoder.documents(documents) for name, documents in texts.items()}
    segments |= {name: encoder.answered(prompts) for name, prompts in answered.items()}
    files = [write_ids(folder, file, {n: segments[n] for n in names}) for file, names in FILES.items()]
    held_out = [d for name in HELD_OUT for d in measured[f"held-out-{name}"]]
    write_documents(folder / "held-out.txt.xz", held_out)
    facts = {
        "tokenizer": tokenizer.digest,
        "seed": SEED,
        "text_bytes": {n: sum(len(d.encode()) for d in documents) for n, documents in texts.items()},
        "characters": {n: sum(map(len, documents)) for n, documents in texts.items()},
        "examples": {name: len(prompts) for name, prompts in answered.items()},
        "tokens": {name: len(ids) for name, ids in segments.items()},
    }
    write_manifest(folder, files, facts)
    return sum(file.stat().st_size for file in folder.iterdir())


def pack(corpora_folder: Path, folder: Path, data: Path, megabytes: float) -> None:
    """Write the files and the manifest: as much of the mixture as fits."""
    start, scale = time.monotonic(), megabytes / WHOLE
    found = read_corpora(corpora_folder)
    corpora, held = keep_apart(found, known_keys(data))
    say("read", start, left_out={name: len(found[name]) - len(corpora[name]) for name in found})
    while True:
        train, dev = choose_text(corpora, scale)
        questions = list(first_megabytes(corpora["questions"], MIXTURE["questions"] * scale))
        answered = choose_answered(corpora_folder, questions, scale)
        measured = {"dev": dev, **{f"held-out-{name}": documents for name, documents in held.items()}}
        size = write_all(folder, train, measured, answered)
        say("packed", start, scale=round(scale, 3), megabytes=round(size / 2**20, 3))
        if size <= megabytes * 2**20:
            return
        fixed = sum((folder / name).stat().st_size for name in HELD_OUT_FILES)
        scale *= FITS * (megabytes * 2**20 - fixed) / (size - fixed)


def say(what: str, start: float, **facts: object) -> None:
    """Report a stage."""
    print(f"{time.monotonic() - start:6.0f} s  {what}: {facts}", flush=True)


def main() -> None:
    """Parse the arguments and pack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("corpora", type=Path, help="folder of the corpora")
    parser.add_argument("folder", type=Path, help="where the packed files go")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets to keep out")
    parser.add_argument("--megabytes", type=float, default=WHOLE, help="the most MiB of all files together")
    arguments = parser.parse_args()
    pack(arguments.corpora, arguments.folder, arguments.data, arguments.megabytes)


if __name__ == "__main__":
    main()
