"""GPT-2's byte-level BPE, by the `tokenizers` package: text to ids and back, loading, training, saving.

The one place that knows the special token: `<|endoftext|>` ends a document and fills the padding.
Only `Tokenizer.eos` stands for it. The same characters inside a user's text are spelled out like any
other text, so no input can end a document; transformers does so with `split_special_tokens=True`, and
every other text gets the same ids there either way.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from explora.core.files import write_atomically
from explora.errors import DataError, UsageError, WeightsError

END_OF_TEXT = "<|endoftext|>"

# The cloze answers of the paraphrase task, with and without a space before: one token each.
WHOLE_WORDS = (" yes", " no", "yes", "no")

ENCODED_AT_ONCE = 1024  # texts: what `tokenizers` knows of each takes a hundred times the room of its ids

Merge = tuple[str, str]


class Tokenizer:
    """Text to token ids and back. Any text has ids, and `decode` gives exactly that text again.

    Nothing is added: no beginning, no end, no padding, no truncation.
    """

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        eos = inner.token_to_id(END_OF_TEXT)
        if eos is None:
            raise WeightsError(
                f"the tokenizer has no {END_OF_TEXT} token", "explora needs a tokenizer of the GPT-2 family"
            )
        self.eos: int = eos
        self._inner = inner
        inner.add_special_tokens([END_OF_TEXT])
        inner.encode_special_tokens = True
        inner.no_truncation()
        inner.no_padding()

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id: the rows that a model's embedding must at least have."""
        return max(self._inner.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what decides the ids: vocabulary, merges and how a text is cut into words."""
        state = json.loads(self._inner.to_str())
        facts = {
            "vocab": self._inner.get_vocab(with_added_tokens=True),
            "merges": state["model"].get("merges"),
            "normalizer": state["normalizer"],
            "pre_tokenizer": state["pre_tokenizer"],
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`. Raises DataError for an unpaired surrogate, which no byte can spell."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, as `encode` would; much faster than one by one."""
        try:
            portions = [texts[i : i + ENCODED_AT_ONCE] for i in range(0, len(texts), ENCODED_AT_ONCE)]
            return [
                encoding.ids
                for portion in portions
                for encoding in self._inner.encode_batch_fast(list(portion), add_special_tokens=False)
            ]
        except TypeError:
            raise DataError(
                "the text holds an unpaired surrogate (half a character)",
                "the file was probably decoded with the wrong encoding; save it as UTF-8",
            ) from None

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`, `eos` as `<|endoftext|>`.

        Ids beyond the vocabulary give nothing; bytes that are not UTF-8 give U+FFFD, so decode all ids
        of a text together: a character may be spread over several.
        """
        return str(self._inner.decode(list(ids), skip_special_tokens=False))

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, as `transformers.AutoTokenizer` reads them."""
        specials = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), END_OF_TEXT)
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **specials,
        }
        write_atomically(folder / "tokenizer.json", self._inner.to_str(pretty=True))
        write_atomically(folder / "tokenizer_config.json", json.dumps(settings, indent=2) + "\n")


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read `tokenizer.json`, or else `vocab.json` and `merges.txt`, of `folder`.

    Raises WeightsError when neither is there or the files are not what they should be.
    """
    whole, vocab, merges = (folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))
    if not whole.is_file() and not (vocab.is_file() and merges.is_file()):
        raise WeightsError(
            f"{folder} holds no tokenizer",
            "expected tokenizer.json, or vocab.json and merges.txt; "
            "or name a folder that has them: --tokenizer FOLDER",
        )
    try:
        if whole.is_file():
            return Tokenizer(tokenizers.Tokenizer.from_file(str(whole)))
        return Tokenizer(_byte_level(models.BPE.from_file(str(vocab), str(merges))))
    except WeightsError as error:
        raise WeightsError(f"{folder}: {error.message}", error.hint) from None
    except Exception as error:  # the package raises bare Exception for whatever is wrong in a file
        raise WeightsError(
            f"{folder}: unreadable tokenizer: {error}", "fetch or write the files again"
        ) from None


def train_tokenizer(documents: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE with GPT-2's pre-tokenisation on `documents`: exactly `vocab_size` tokens.

    Ids: the 256 bytes, the merged tokens by rank, `<|endoftext|>` last. " yes", " no", "yes" and "no" are
    single tokens, whatever the text: where it does not teach them, their merges take the lowest ranks.
    The same documents give the same tokenizer. Raises UsageError when `vocab_size` has no room for the
    bytes and those words, DataError when the text is too short to fill it.
    """
    merges = _learn_merges(documents, max(0, vocab_size - 1))
    for kept in range(len(merges), -1, -1):  # the rarest make room, where words had to be added
        whole = _with_whole_words(merges[:kept])
        vocab = _vocabulary(whole)
        if len(vocab) < vocab_size:
            break
    size = len(vocab) + 1
    if size > vocab_size:
        raise UsageError(f"a vocabulary of {vocab_size} is too small", f"it takes at least {size} tokens")
    if size < vocab_size:
        raise DataError(
            f"the text is too short for a vocabulary of {vocab_size}",
            f"it gives {size} tokens; take a smaller vocabulary or more text",
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
    """Number the bytes, then what the merges make; two merges may make the same token."""
    tokens = dict.fromkeys([*sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges)])
    return {token: index for index, token in enumerate(tokens)}


def _with_whole_words(merges: Sequence[Merge]) -> list[Merge]:
    """Return `merges` and, after them, the ones that still join a word of WHOLE_WORDS into one token."""
    whole = list(merges)
    for word in WHOLE_WORDS:
        pieces = [
            token.value for token in models.BPE(_vocabulary(whole), whole).tokenize(word.replace(" ", "Ġ"))
        ]
        while len(pieces) > 1:
            whole.append((pieces[0], pieces[1]))
            pieces[:2] = ["".join(pieces[:2])]
    return whole
