"""The same ids as transformers' GPT-2 tokenizer, and as GPT-2's BPE written out from its definition."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import regex
from transformers import AutoTokenizer, GPT2TokenizerFast

from explora.core.base.tokenizer import END_OF_TEXT, Tokenizer, load_tokenizer, train_tokenizer

Encode = Callable[[str], list[int]]

NOUNS = ("summer", "winter", "morning", "evening")
VERBS = ("follows", "remembers", "forgets", "carries")
DOCUMENTS = [f"The {a} {verb} the {b}." for a, verb, b in itertools.product(NOUNS, VERBS, NOUNS)]

# What breaks tokenizers: joined and combining characters, both directions, invisible ones, all controls.
ADVERSARIAL = [
    "",
    " ",
    "  \t \n\n  ",
    " " * 1000,
    "a" + " " * 65 + "b",
    "naïve café, nai\u0308ve cafe\u0301",
    "👩\u200d👩\u200d👧\u200d👦 🇨🇭 👍🏽 \U0001f600\ufe0f",
    "\U00020000\U0010ffff\U0001d518\U0001d52b\U0001d526",
    "שלום עולם \u202eabc\u202c مرحبا",
    "NUL \x00 inside \x00\x00",
    "".join(map(chr, range(32))) + "\x7f\x80\x9f",
    "line\r\nline\rline\n\r\n",
    "it's 's 'S 'LL'll 've 're 'm 'd \u2019s",
    "x²½Ⅷ① 12345678901234567890",
    "\ufeffBOM \u00a0nbsp \u2003em \u3000wide \u200bzero \ufffd",
    "<|endoftext|>",
    "before <|endoftext|><|endoftext|> after",
    "<|endoftext" + "|>" * 3,
    "Z\u0351\u034b\u0349" * 50,
    "한국어 日本語 中文 ไทย हिन्दी",
    "aaaa" * 500,
]

PLAIN = [text for text in ADVERSARIAL if END_OF_TEXT not in text]  # GPT-2's encoder.py knows no special token

# GPT-2's pre-tokenisation (Radford et al. 2019, encoder.py)
WORDS = regex.compile(r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""")


def bytes_to_unicode() -> dict[int, str]:
    """GPT-2's printable stand-ins for bytes (Radford et al. 2019, encoder.py)."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = (byte for byte in range(256) if byte not in printable)
    return {byte: chr(byte) for byte in printable} | {b: chr(256 + n) for n, b in enumerate(others)}


def definition(folder: Path) -> Encode:
    """GPT-2's encoder from its definition: cut into words, then join the pair of the lowest rank."""
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")[1:]
    ranks = {tuple(line.split(" ")): rank for rank, line in enumerate(lines) if line}
    alphabet = bytes_to_unicode()

    @cache
    def encode_word(word: str) -> list[int]:
        pieces = [alphabet[byte] for byte in word.encode()]
        while len(pieces) > 1:
            pairs = list(itertools.pairwise(pieces))
            best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
            if best not in ranks:
                break
            joined, index = [], 0
            while index < len(pieces):
                step = 2 if tuple(pieces[index : index + 2]) == best else 1
                joined.append("".join(pieces[index : index + step]))
                index += step
            pieces = joined
        return [vocab[piece] for piece in pieces]

    return lambda text: [token for word in WORDS.findall(text) for token in encode_word(word)]


def different(ours: list[list[int]], theirs: list[list[int]]) -> int:
    return sum(a != b for a, b in zip(ours, theirs, strict=True))


def real_sentences(folder: Path) -> list[str]:
    """10,000 sentences: short questions, film sentences and whole reviews."""
    columns = [
        ("quora/quora-dev.csv", 2, 6000),
        ("sst/ids-sst-train.csv", 2, 3500),
        ("cfimdb/ids-cfimdb-train.csv", 2, 500),
    ]
    sentences = []
    for name, column, count in columns:
        with (folder / name).open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file, delimiter="\t"))[1 : count + 1]
        sentences += [row[column] for row in rows]
    assert len(sentences) == 10_000
    return sentences


@pytest.fixture
def gpt2_files(real_data: Path) -> Path:
    return real_data / "gpt2-tokenizer"


@pytest.fixture
def oracle(gpt2_files: Path) -> GPT2TokenizerFast:
    return GPT2TokenizerFast(vocab=str(gpt2_files / "vocab.json"), merges=str(gpt2_files / "merges.txt"))


@pytest.mark.data
def test_ten_thousand_real_sentences(real_data: Path, gpt2_files: Path, oracle: GPT2TokenizerFast) -> None:
    sentences = real_sentences(real_data)
    ours = load_tokenizer(gpt2_files)
    ids = ours.encode_batch(sentences)
    assert ids == oracle(sentences).input_ids
    assert [ours.decode(row) for row in ids] == sentences


@pytest.mark.data
def test_adversarial_text(gpt2_files: Path, oracle: GPT2TokenizerFast) -> None:
    ids = load_tokenizer(gpt2_files).encode_batch(ADVERSARIAL)
    assert ids == oracle(ADVERSARIAL).input_ids


@pytest.mark.data
def test_the_definition_of_gpt2s_encoder(real_data: Path, gpt2_files: Path) -> None:
    texts = [*PLAIN, *real_sentences(real_data)[::10]]
    encode = definition(gpt2_files)
    assert load_tokenizer(gpt2_files).encode_batch(texts) == [encode(text) for text in texts]


@pytest.mark.data
@pytest.mark.parametrize("bug", ["prefix space", "merges backwards", "plain bytes"])
def test_a_planted_bug_is_noticed(
    real_data: Path, gpt2_files: Path, oracle: GPT2TokenizerFast, tmp_path: Path, bug: str
) -> None:
    file = tmp_path / "tokenizer.json"
    oracle.backend_tokenizer.save(str(file))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast"
    }  # else words are cut as GPT-2's, whatever it says
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    state = json.loads(file.read_text(encoding="utf-8"))
    if bug == "prefix space":
        state["pre_tokenizer"]["add_prefix_space"] = True
    elif bug == "merges backwards":
        state["model"]["merges"].reverse()
    else:
        state["pre_tokenizer"]["use_regex"] = False
    file.write_text(json.dumps(state), encoding="utf-8")
    sentences = real_sentences(real_data)[::50]
    expected = oracle(sentences).input_ids
    assert different(load_tokenizer(gpt2_files).encode_batch(sentences), expected) == 0
    assert different(load_tokenizer(tmp_path).encode_batch(sentences), expected) > 0


def saved_pair(folder: Path, tokenizer: Tokenizer) -> Path:
    tokenizer.save(folder)
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    merges = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(merges) + "\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("text", ADVERSARIAL)
def test_decode_undoes_encode(text: str) -> None:
    tokenizer = train_tokenizer(DOCUMENTS, 300)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert ids.count(tokenizer.eos) == text.count(END_OF_TEXT)
    assert tokenizer.encode_batch([text, text]) == [ids, ids]


def test_a_trained_tokenizer_has_the_same_ids_in_transformers(tmp_path: Path) -> None:
    ours = train_tokenizer(DOCUMENTS, 300)
    ours.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    texts = [*ADVERSARIAL, *DOCUMENTS[::16], " yes", "no"]
    ids = ours.encode_batch(texts)
    assert ids == theirs(texts).input_ids
    assert [theirs.decode(row) for row in ids] == texts
    assert len(theirs) == ours.vocab_size
    assert {theirs.eos_token_id, theirs.bos_token_id, theirs.pad_token_id} == {ours.eos}
    assert theirs(END_OF_TEXT).input_ids == [ours.eos]


def test_a_trained_tokenizer_follows_the_definition(tmp_path: Path) -> None:
    ours = train_tokenizer(DOCUMENTS, 300)
    encode = definition(saved_pair(tmp_path, ours))
    texts = [*PLAIN, *DOCUMENTS[::16]]
    assert ours.encode_batch(texts) == [encode(text) for text in texts]
