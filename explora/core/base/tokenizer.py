"""GPT-2's byte-level BPE, by the `tokenizers` package: text to ids and back, loading, training, saving.

The ids of a text equal those of transformers' AutoTokenizer: special and added tokens in a text are tokens,
and a post-processor may add a start token. `<|endoftext|>` ends documents and is used for padding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from explora.core.base.added_tokens import (
    ADDED_FILE,
    CONFIG_FILE,
    MAP_FILE,
    listed_tokens,
    read_settings,
    special_tokens,
)
from explora.core.files import write_atomically
from explora.errors import DataError, UsageError, WeightsError

END_OF_TEXT = "<|endoftext|>"
WHOLE, VOCABULARY, MERGES = "tokenizer.json", "vocab.json", "merges.txt"
SETTINGS = (CONFIG_FILE, MAP_FILE, ADDED_FILE, "chat_template.jinja")  # a tokenizer may lack any of them
GPT2_CLASS = "GPT2Tokenizer"  # the class that transformers uses for a GPT-2 whose files name none

# The cloze answers of the paraphrase task, with and without a space before: one token each.
WHOLE_WORDS = (" yes", " no", "yes", "no")

ENCODED_AT_ONCE = 1024  # texts at a time: `tokenizers` needs a hundred times the memory of their ids

Merge = tuple[str, str]


class Tokenizer:
    """A tokenizer: text to token ids and back. Any text has ids; nothing is padded or truncated.

    `files` are those that it was read from, by name, which `save` writes again; empty for a new tokenizer.
    """

    def __init__(self, inner: tokenizers.Tokenizer, files: Mapping[str, bytes] | None = None) -> None:
        eos = inner.token_to_id(END_OF_TEXT)
        if eos is None:
            raise WeightsError(
                f"the tokenizer has no {END_OF_TEXT} token", "explora needs a tokenizer of the GPT-2 family"
            )
        self.eos: int = eos
        self._inner = inner
        self.files = files or {}
        inner.add_special_tokens([END_OF_TEXT])
        inner.no_truncation()
        inner.no_padding()

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id: the minimum number of rows of a model's embedding."""
        return max(self._inner.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything that decides the ids: vocabulary, merges, added tokens, split into words."""
        state = json.loads(self._inner.to_str())
        deciding = ("added_tokens", "normalizer", "pre_tokenizer", "post_processor")
        facts = {name: state[name] for name in deciding} | {
            "vocab": self._inner.get_vocab(with_added_tokens=True),
            "merges": state["model"].get("merges"),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Return the ids of a whole text. Raises DataError for an unpaired surrogate, which has no bytes."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, as `encode` would; much faster than one call per text."""
        return self._encode(texts, whole=True)

    def encode_parts(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each part of a text, without a start token, which only whole texts have."""
        return self._encode(texts, whole=False)

    def _encode(self, texts: Sequence[str], *, whole: bool) -> list[list[int]]:
        try:
            portions = [texts[i : i + ENCODED_AT_ONCE] for i in range(0, len(texts), ENCODED_AT_ONCE)]
            return [
                encoding.ids
                for portion in portions
                for encoding in self._inner.encode_batch_fast(list(portion), add_special_tokens=whole)
            ]
        except TypeError:
            raise DataError(
                "the text contains an unpaired surrogate (half a character)",
                "the file was probably decoded with the wrong encoding; save it as UTF-8",
            ) from None

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`, with `eos` as `<|endoftext|>`.

        Ids outside the vocabulary give no text. Bytes that are not UTF-8 give U+FFFD. Decode all ids of a
        text together, because one character may take several ids.
        """
        return str(self._inner.decode(list(ids), skip_special_tokens=False))

    def save(self, folder: Path) -> None:
        """Write files for `transformers.AutoTokenizer`: those that it was read from, if there are any.

        A new tokenizer.json is written last, so that it never exists without its settings, even after a kill.
        """
        for name, content in self.files.items():
            write_atomically(folder / name, content)
        if self.files:
            return
        specials = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), END_OF_TEXT)
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **specials,
        }
        write_atomically(folder / CONFIG_FILE, json.dumps(settings, indent=2) + "\n")
        write_atomically(folder / WHOLE, self._inner.to_str(pretty=True))


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read the tokenizer of a folder: `tokenizer.json`, or else `vocab.json` and `merges.txt`.

    Files of settings and of added tokens in the folder are read, too. Raises WeightsError if there is no
    tokenizer or a file is malformed.
    """
    files = {
        name: (folder / name).read_bytes()
        for name in (WHOLE, VOCABULARY, MERGES, *SETTINGS)
        if (folder / name).is_file()
    }
    if WHOLE not in files and not {VOCABULARY, MERGES} <= files.keys():
        raise WeightsError(
            f"{folder} has no tokenizer",
            "expected tokenizer.json, or vocab.json and merges.txt; "
            "or name a folder that has them: --tokenizer FOLDER",
        )
    try:
        return Tokenizer(_read(folder, files), files)
    except WeightsError as error:
        raise WeightsError(f"{folder}: {error.message}", error.hint) from None
    except Exception as error:  # the package raises a bare Exception for any fault in a file
        raise WeightsError(
            f"{folder}: unreadable tokenizer: {error}", "fetch or write the files again"
        ) from None


def _read(folder: Path, files: Mapping[str, bytes]) -> tokenizers.Tokenizer:
    settings = read_settings(files)
    if WHOLE in files:
        inner = tokenizers.Tokenizer.from_buffer(files[WHOLE])
    else:
        inner = _byte_level(models.BPE.from_file(str(folder / VOCABULARY), str(folder / MERGES)))
    name = settings.get("tokenizer_class") or GPT2_CLASS
    if WHOLE not in files or name.removesuffix("Fast") == GPT2_CLASS:
        _read_as_gpt2(inner, settings)
    inner.encode_special_tokens = bool(settings.get("split_special_tokens"))
    inner.add_tokens(listed_tokens(files, settings))
    if (
        inner.token_to_id(END_OF_TEXT) is not None
    ):  # a tokenizer without it is of another family: no additions
        present = {token.content for token in inner.get_added_tokens_decoder().values()}
        inner.add_tokens([token for token in special_tokens(settings) if token.content not in present])
    if WHOLE not in files and (settings.get("add_bos_token") or settings.get("add_eos_token")):
        inner.post_processor = _post_processor(inner, settings)
    return inner


def _read_as_gpt2(inner: tokenizers.Tokenizer, settings: Mapping[str, Any]) -> None:
    """Split text into words as transformers' GPT2Tokenizer does, whatever tokenizer.json specifies."""
    inner.normalizer = None
    prefix = bool(settings.get("add_prefix_space"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    inner.decoder = decoders.ByteLevel()


def _post_processor(inner: tokenizers.Tokenizer, settings: Mapping[str, Any]) -> Any:
    """Return the post-processor that adds start and end tokens for add_bos_token and add_eos_token."""
    start, end = (_added_end(settings, name) for name in ("bos", "eos"))
    return processors.TemplateProcessing(
        single=[f"{piece}:0" for piece in (start, "$A", end) if piece],
        special_tokens=[(token, inner.token_to_id(token)) for token in dict.fromkeys((start, end)) if token],
    )


def _added_end(settings: Mapping[str, Any], name: str) -> str | None:
    token = settings.get(f"{name}_token", END_OF_TEXT)
    if token is None or not settings.get(f"add_{name}_token"):
        return None
    return str(token["content"] if isinstance(token, dict) else token)


def train_tokenizer(documents: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE with GPT-2's pre-tokenisation on `documents`, with exactly `vocab_size` tokens.

    Ids: the 256 bytes, the merged tokens by rank, `<|endoftext|>` last. " yes", " no", "yes" and "no" are
    always single tokens; if the text does not contain them often enough, their merges get the lowest ranks.
    The same documents give the same tokenizer. Raises UsageError if `vocab_size` is too small for the bytes
    and these words, DataError if the text is too short for the vocabulary.
    """
    merges = _learn_merges(documents, max(0, vocab_size - 1))
    for kept in range(len(merges), -1, -1):  # the rarest merges make room for added words
        whole = _with_whole_words(merges[:kept])
        vocab = _vocabulary(whole)
        if len(vocab) < vocab_size:
            break
    size = len(vocab) + 1
    if size > vocab_size:
        raise UsageError(f"a vocabulary of {vocab_size} is too small", f"use at least {size} tokens")
    if size < vocab_size:
        raise DataError(
            f"the text is too short for a vocabulary of {vocab_size}",
            f"it gives {size} tokens; use a smaller vocabulary or more text",
        )
    return Tokenizer(_byte_level(models.BPE({**vocab, END_OF_TEXT: len(vocab)}, whole)))


def _byte_level(model: models.BPE) -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(model)
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return inner


def _learn_merges(documents: Iterable[str], vocab_size: int) -> list[Merge]:
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    inner = _byte_level(models.BPE())
    inner.train_from_iterator(iter(documents), trainer)
    return [(left, right) for left, right in json.loads(inner.to_str())["model"]["merges"]]


def _vocabulary(merges: Sequence[Merge]) -> dict[str, int]:
    """Number the bytes, then the results of the merges; two merges may have the same result."""
    tokens = dict.fromkeys([*sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges)])
    return {token: index for index, token in enumerate(tokens)}


def _with_whole_words(merges: Sequence[Merge]) -> list[Merge]:
    """Return `merges`, followed by those that are missing to make each word of WHOLE_WORDS one token."""
    whole = list(merges)
    for word in WHOLE_WORDS:
        pieces = [
            token.value for token in models.BPE(_vocabulary(whole), whole).tokenize(word.replace(" ", "Ġ"))
        ]
        while len(pieces) > 1:
            whole.append((pieces[0], pieces[1]))
            pieces[:2] = ["".join(pieces[:2])]
    return whole
