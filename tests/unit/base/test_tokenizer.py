"""The tokenizer: special token, round trips, files that are wrong, and training."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Inner
from tokenizers import models, pre_tokenizers, trainers

from explora.core.base.tokenizer import END_OF_TEXT, WHOLE_WORDS, Tokenizer, load_tokenizer, train_tokenizer
from explora.errors import DataError, UsageError, WeightsError

NOUNS = ("summer", "winter", "morning", "evening", "question", "answer", "river", "mountain")
VERBS = ("follows", "remembers", "forgets", "carries")
DOCUMENTS = [f"The {a} {verb} the {b}." for a, verb, b in itertools.product(NOUNS, VERBS, NOUNS)]
TEXTS = ["", "It's the 2nd  winter,\nnaïve \U0001f600\x00\r\n", f"a{END_OF_TEXT}b"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(DOCUMENTS, 320)


def test_the_special_token_in_a_text_is_one_token(tokenizer: Tokenizer) -> None:
    assert [ids.count(tokenizer.eos) for ids in tokenizer.encode_batch(TEXTS)] == [0, 0, 1]
    assert tokenizer.decode([tokenizer.eos]) == END_OF_TEXT


def test_a_batch_is_its_texts(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode_batch(TEXTS) == [tokenizer.encode(text) for text in TEXTS]
    assert tokenizer.encode_batch([]) == []


@pytest.mark.parametrize("text", ["\ud800", "half \udfff of a character"])
def test_half_a_character_is_a_data_error(tokenizer: Tokenizer, text: str) -> None:
    with pytest.raises(DataError, match="unpaired surrogate"):
        tokenizer.encode(text)


def test_bytes_that_are_no_utf8_decode_to_the_replacement_character(tokenizer: Tokenizer) -> None:
    first_half = tokenizer.encode("é")[:1]
    assert tokenizer.decode(first_half) == "\ufffd"


# Training


@pytest.mark.parametrize("size", [265, 270, 300, 320])
def test_training_hits_the_size_and_ends_with_the_special_token(size: int) -> None:
    trained = train_tokenizer(DOCUMENTS, size)
    assert (trained.vocab_size, trained.eos) == (size, size - 1)


def test_the_answers_are_single_tokens_even_if_the_text_never_has_them(tokenizer: Tokenizer) -> None:
    assert not any(word.strip() in " ".join(DOCUMENTS).split() for word in WHOLE_WORDS)
    ids = tokenizer.encode_batch(WHOLE_WORDS)
    assert [len(pieces) for pieces in ids] == [1, 1, 1, 1]
    assert len({pieces[0] for pieces in ids}) == 4
    assert tokenizer.encode("The answer: no") == [*tokenizer.encode("The answer:"), *tokenizer.encode(" no")]


def test_added_merges_come_after_those_that_plain_training_learns(tmp_path: Path) -> None:
    plain = Inner(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=319, min_frequency=2, show_progress=False, initial_alphabet=alphabet
    )
    plain.train_from_iterator(DOCUMENTS, trainer)
    train_tokenizer(DOCUMENTS, 320).save(tmp_path)
    learned = json.loads(plain.to_str())["model"]["merges"]
    ours = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))["model"]["merges"]
    added = [pair for pair in ours if pair not in learned]
    assert 0 < len(added) <= 8
    assert ours == [*learned[: -len(added)], *added]


def test_an_answer_that_the_text_teaches_costs_nothing() -> None:
    taught = train_tokenizer([*DOCUMENTS, *["Say yes or no, yes, no: no yes"] * 50, *["yes", "no"] * 50], 300)
    assert max(taught.encode_batch(WHOLE_WORDS)) < [290]


def test_all_256_bytes_are_known(tokenizer: Tokenizer) -> None:
    every = "".join(map(chr, range(256))) + "\U0010ffff\U000c0000"
    assert tokenizer.decode(tokenizer.encode(every)) == every


def test_training_is_the_same_in_every_process() -> None:
    code = (
        "from explora.core.base.tokenizer import train_tokenizer\n"
        f"print(train_tokenizer(iter({DOCUMENTS!r}), 300).digest)"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert digests == {train_tokenizer(DOCUMENTS, 300).digest + "\n"}


@pytest.mark.parametrize("size", [0, 1, 256, 264])
def test_a_vocabulary_without_room_for_bytes_and_answers_is_refused(size: int) -> None:
    with pytest.raises(UsageError, match="too small") as caught:
        train_tokenizer(DOCUMENTS, size)
    assert "265" in caught.value.hint


def test_too_little_text_is_an_error_that_says_how_far_it_goes() -> None:
    with pytest.raises(DataError, match="too short for a vocabulary of 5000") as caught:
        train_tokenizer(DOCUMENTS, 5000)
    reachable = int(caught.value.hint.split()[2])
    assert train_tokenizer(DOCUMENTS, reachable).vocab_size == reachable


# Files


def test_saving_and_loading_gives_the_same_tokenizer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.digest == tokenizer.digest
    assert loaded.encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)
    loaded.save(tmp_path / "again")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


def _split(folder: Path) -> None:
    """Turn `tokenizer.json` into GPT-2's original pair of files."""
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_vocabulary_and_merges_are_the_same_tokenizer_as_the_one_file(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    tokenizer.save(tmp_path)
    _split(tmp_path)
    pair = load_tokenizer(tmp_path)
    assert pair.digest == tokenizer.digest
    assert pair.encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)
    assert (pair.eos, pair.vocab_size) == (tokenizer.eos, tokenizer.vocab_size)


def test_another_vocabulary_has_another_digest(tokenizer: Tokenizer) -> None:
    assert tokenizer.digest != train_tokenizer(DOCUMENTS, 319).digest


def test_truncation_and_padding_stored_in_a_file_are_not_applied(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    tokenizer.save(tmp_path)
    file = tmp_path / "tokenizer.json"
    state = json.loads(file.read_text(encoding="utf-8"))
    state["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    state["padding"] = {
        "strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "!",
    }  # fmt: skip
    file.write_text(json.dumps(state), encoding="utf-8")
    assert load_tokenizer(tmp_path).encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)


def test_an_empty_folder_has_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="has no tokenizer"):
        load_tokenizer(tmp_path)


def test_half_a_pair_of_files_is_no_tokenizer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    _split(tmp_path)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(WeightsError, match="has no tokenizer"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "{}", '{"model": {"type": "Future"}}'])
def test_a_damaged_tokenizer_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(WeightsError, match=r"unreadable tokenizer") as caught:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in caught.value.message


def test_damaged_merges_are_named(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    _split(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\nnever seen\n", encoding="utf-8")
    with pytest.raises(WeightsError, match="unreadable tokenizer"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_of_another_family_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    file = tmp_path / "tokenizer.json"
    file.write_text(file.read_text(encoding="utf-8").replace(END_OF_TEXT, "</s>"), encoding="utf-8")
    with pytest.raises(WeightsError, match=r"no <\|endoftext\|> token") as caught:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in caught.value.message


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_fork_after_parallel_work_neither_warns_nor_hangs() -> None:
    code = f"""
import os, sys
from explora.core.base.tokenizer import train_tokenizer
texts = {DOCUMENTS!r}
tokenizer = train_tokenizer(texts, 300)
first = tokenizer.encode_batch(texts)
if (child := os.fork()) == 0:
    os._exit(tokenizer.encode_batch(texts) != first)
sys.exit(os.waitpid(child, 0)[1])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
