"""benchmarks/gpu, what is packed: ids survive, held-out text is new to every version, data sets stay out."""

from __future__ import annotations

import lzma
import random
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
sys.path += [str(BENCHMARKS / "gpu"), str(BENCHMARKS / "pretrain")]

import hold_out  # noqa: E402
import mix  # noqa: E402
import pack_corpus  # noqa: E402
from avoid_data_sets import is_known, known_keys  # noqa: E402
from pack_tokens import read_ids, write_ids, write_manifest  # noqa: E402

from explora.core.base.find import base_tokenizer, open_base  # noqa: E402

WORDS = [
    "the",
    "winter",
    "garden",
    "door",
    "has",
    "closed",
    "upon",
    "a",
    "quiet",
    "evening",
    "while",
    "ships",
]


def document(number: int, sentences: int = 3) -> str:
    draw = random.Random(number)
    return " ".join(f"{number} {' '.join(draw.choices(WORDS, k=14))}." for _ in range(sentences))


def pack(folder: Path) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    segments = {name: draw.integers(0, 8192, size, dtype=np.uint16) for name, size in SIZES.items()}
    files = [
        write_ids(folder, "first", {"a": segments["a"], "b": segments["b"]}),
        write_ids(folder, "second", {"c": segments["c"]}),
    ]
    write_manifest(folder, files, {})
    return segments


SIZES = {"a": 1000, "b": 0, "c": 77}


def test_ids_survive_packing(tmp_path: Path) -> None:
    written = pack(tmp_path)
    read = read_ids(tmp_path)
    assert list(read) == list(SIZES)
    for name, ids in written.items():
        np.testing.assert_array_equal(read[name], ids)


def test_a_file_that_differs_from_the_manifest_is_refused(tmp_path: Path) -> None:
    pack(tmp_path)
    file = tmp_path / "first.ids.xz"
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"first\.ids\.xz is damaged"):
        read_ids(tmp_path)


def test_answers_are_bare_words_after_a_lone_space() -> None:
    tokenizer = base_tokenizer(open_base("embedded"))
    encoder = pack_corpus.Encoder(tokenizer)
    ids = encoder.answered([('Is "a" a paraphrase of "b"? Answer "yes" or "no": ', True), ("Good? ", False)])
    (space,), (no,), (yes,) = (tokenizer.encode(word) for word in (" ", "no", "yes"))
    ends = np.flatnonzero(ids == tokenizer.eos)
    assert [ids[end - 2 : end].tolist() for end in ends] == [[space, yes], [space, no]]


def test_documents_decode_to_themselves() -> None:
    tokenizer = base_tokenizer(open_base("embedded"))
    texts = [document(number) for number in range(3)]
    ids = pack_corpus.Encoder(tokenizer).documents(texts)
    assert tokenizer.decode(ids.tolist()) == "".join(text + "<|endoftext|>" for text in texts)


@pytest.mark.parametrize("megabytes", [None, 0.05])
def test_trained_parts_are_what_mix_trained_on(tmp_path: Path, megabytes: float | None) -> None:
    texts = [document(number) for number in range(1500)]
    with lzma.open(tmp_path / "prose.txt.xz", "wt") as out:
        out.writelines(text + "\n\n" for text in texts)
    taken = mix.portion(tmp_path, "prose", megabytes, random.Random(0))
    trained = [text for i, text in enumerate(taken) if i % mix.DEV_EVERY]  # as mix.main does
    found = hold_out.trained_parts([len(text) for text in texts], megabytes)
    assert [texts[i] for i in sorted(found)] == trained
    assert 0 < len(found) < len(texts)


def test_a_document_is_free_only_if_all_its_parts_are() -> None:
    long = "\n".join(document(number) for number in range(200))  # several parts
    documents = [long if number % 3 else document(number) for number in range(60)]
    megabytes = 0.3 * sum(map(len, documents)) / 1e6
    free = hold_out.never_trained(documents, [megabytes])
    parts = [(owner, part) for owner, text in enumerate(documents) for part in mix.cut(text)]
    trained = hold_out.trained_parts([len(part) for _, part in parts], megabytes)
    owners = [owner for index, (owner, _) in enumerate(parts) if index in trained]
    assert free and owners
    assert not set(free) & set(owners)
    assert set(free) | set(owners) == set(range(len(documents)))


def corpora() -> dict[str, list[str]]:
    """Synthetic corpora with free documents of every kind."""
    names = list(pack_corpus.MIXTURE)
    return {name: [document(1000 * i + n, 12) for n in range(900)] for i, name in enumerate(names)}


def test_no_held_out_sentence_is_in_the_rest() -> None:
    texts = corpora()
    kept, held = pack_corpus.keep_apart(texts, set())
    rest = {sentence for documents in kept.values() for d in documents for sentence in hold_out.sentences(d)}
    for name in hold_out.HELD_OUT:
        assert held[name]
        assert not any(sentence in rest for d in held[name] for sentence in hold_out.sentences(d))


def test_a_planted_copy_is_not_held_out() -> None:
    texts = corpora()
    _, held = pack_corpus.keep_apart(texts, set())
    chosen = held["prose"][0]
    sentence = next(hold_out.sentences(chosen))
    texts["wiki-1"][5] += " " + sentence
    _, again = pack_corpus.keep_apart(texts, set())
    assert chosen not in again["prose"]
    assert set(again["prose"]) & set(held["prose"])


def test_a_repeated_document_is_not_held_out() -> None:
    texts = corpora()
    _, held = pack_corpus.keep_apart(texts, set())
    chosen = held["wiki-2"][0]
    texts["wiki-1"].append(chosen)
    _, again = pack_corpus.keep_apart(texts, set())
    assert chosen not in again["wiki-2"]


def test_texts_of_the_data_sets_are_recognised(tmp_path: Path) -> None:
    for name in ("quora", "cfimdb", "sonnets"):
        (tmp_path / name).mkdir()
    (tmp_path / "quora/quora-dev.csv").write_text("\tid\tsentence1\n0\tx\tHow do I learn to knit quickly?\n")
    (tmp_path / "cfimdb/ids-cfimdb-dev.csv").write_text(
        "\tid\tsentence\n0\ty\tA film n't worth two hours .\n"
    )
    (tmp_path / "sonnets/sonnets_held_out.txt").write_text("1\nThine eyes I love, and they, as pitying me\n")
    keys = known_keys(tmp_path)
    assert is_known("how do i learn to knit, quickly", keys)
    assert is_known("A poem\nThine eyes I love, and they, as pitying me,\nand more", keys)
    assert not is_known("How do I learn to sew quickly?", keys)
    assert not is_known("id", keys)


def test_missing_data_sets_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        known_keys(tmp_path)
