"""Language modelling on plain text: documents joined by end-of-text tokens, cut into rows of equal length.

Token ids are stored in a memory-mapped file in the cache. A corpus is tokenised once and need not fit in
memory.
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from explora.core.base.tokenizer import Tokenizer
from explora.core.cache import VARIABLE, cache_folder
from explora.core.config.concerns import DataConfig
from explora.core.data.batching import pad
from explora.core.data.documents import stream_documents
from explora.core.data.prompts import first_lines
from explora.core.data.splits import Row, find_split, read_table
from explora.core.data.text_files import AUTO, STDIN, check_is_file, name_of
from explora.core.files import write_atomically, writing
from explora.core.generate.decode import Prompt
from explora.core.model.cross_entropy import tied_cross_entropy, token_losses
from explora.core.model.gpt2 import GPT2
from explora.core.tasks.contract import (
    Batch,
    Evaluation,
    Example,
    Split,
    TaskContext,
    find_places,
)
from explora.core.tasks.metrics import Score, perplexity, ratio
from explora.core.tasks.trivial import UNIFORM, UNIGRAM, uniform_losses, unigram_losses, values_of
from explora.errors import DataError, UsageError, WriteError

DOCUMENTS_AT_ONCE = 1000
TOKENS_AT_ONCE = 1_000_000
SHORTEST = 2  # fewest tokens of a split: one as input and one to predict


class LazyRows(Sequence[Example]):
    """A sequence of rows that builds each row on demand."""

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.row(index)

    @abstractmethod
    def row(self, index: int) -> Example:
        """Build the row with a valid index."""


class TokenRows(LazyRows):
    """Rows of `length` consecutive tokens of a memory-mapped file; the last row may be shorter."""

    def __init__(self, file: str, ids: NDArray[np.integer], text_bytes: int, length: int) -> None:
        self.file, self.ids, self.text_bytes, self.length = file, ids, text_bytes, length

    def __len__(self) -> int:
        return -(-len(self.ids) // self.length)

    def row(self, index: int) -> Example:
        """Return the row with this index."""
        ids = self.ids[index * self.length : (index + 1) * self.length].tolist()
        return Example(row=Row(file=self.file, line=0, id=str(index), values={}), ids=ids)

    def digest(self) -> str:
        """Return the SHA-256 of the ids and the row length; it is fast, because it builds no rows."""
        found = hashlib.sha256(f"{self.ids.dtype} {self.length}\n".encode())
        found.update(self.ids.data)
        return found.hexdigest()


class Text:
    """Language modelling on plain text as described above."""

    metric = "perplexity"
    higher_is_better = False
    labels: tuple[str, ...] = ()
    candidates: tuple[int, ...] | None = None

    def __init__(self, context: TaskContext) -> None:
        self.context = context

    def head_classes(self) -> int | None:
        """Return None: the tied head predicts the tokens."""
        return None

    def load(self, config: DataConfig, split: str) -> Split:
        """Tokenise a split. If one file has both splits, its last tenth of the tokens is the dev set."""
        found = find_split(self.context.name, config, split)
        rows = self._rows(found.file, config.encoding)
        if found.whole:
            return Split(examples=rows)
        border = len(rows.ids) * 9 // 10  # not at a row's end: other row lengths keep the same dev tokens
        if len(rows.ids) - border < SHORTEST:
            raise DataError(
                f"{len(rows.ids)} tokens are too few to set aside a tenth for dev",
                "name a dev file: --dev FILE",
                file=found.file,
            )
        ids = rows.ids[:border] if split == "train" else rows.ids[border:]
        share = rows.text_bytes * len(ids) // len(rows.ids)
        return Split(examples=TokenRows(rows.file, ids, share, rows.length))

    def read(self, source: str, config: DataConfig) -> Split:
        """Tokenise the whole of one file, or of stdin for "-"."""
        return Split(examples=self._rows(source, config.encoding))

    def _rows(self, source: str, encoding: str) -> TokenRows:
        ids, text_bytes = tokenise(source, self.context.tokenizer, encoding)
        return TokenRows(name_of(source), ids, text_bytes, self.context.max_length)

    def prompt(self, text: str, seed: int) -> Prompt:
        """Encode a prompt without changes."""
        return Prompt(ids=self.context.tokenizer.encode(text), seed=seed)

    def prompts(self, source: str) -> Iterator[tuple[Row, str]]:
        """Yield each document of a file with its first lines as the prompt."""
        return first_lines(read_table(source, self.context.name, DataConfig(data=source)))

    def collate(self, examples: Sequence[Example], epoch: int) -> Batch:
        """Make a batch whose targets are the next tokens; the last token of a row has no target."""
        input_ids = pad([example.ids for example in examples], self.context.tokenizer.eos)
        lengths = torch.tensor([len(example.ids) for example in examples])
        targets = torch.full_like(input_ids, -100)
        targets[:, :-1] = input_ids[:, 1:]
        places = torch.arange(input_ids.shape[1])
        targets[places >= lengths[:, None] - 1] = -100
        tokens = int(lengths.sum())
        weight = tokens - len(examples)
        return Batch(
            input_ids=input_ids,
            targets=targets,
            positions=lengths - 1,
            weight=weight,
            tokens=tokens,
            places=find_places(targets),
        )

    def loss(self, model: GPT2, batch: Batch) -> Tensor:
        """Return the cross-entropy summed over the targets of the batch."""
        states, targets = batch.predicted(model(batch.input_ids))
        return tied_cross_entropy(states, model.wte.weight, targets)

    def dev_score(self, model: GPT2, examples: Sequence[Example], batch_size: int) -> Score:
        """Return the perplexity per token."""
        return perplexity(*self._row_losses(model, examples, batch_size))

    def evaluate(
        self, model: GPT2, examples: Sequence[Example], train: Sequence[Example], batch_size: int
    ) -> Evaluation:
        """Return the perplexity per token and the bits per byte of the text.

        The loss equals that of transformers on consecutive windows of the row length, where each window
        predicts all its tokens except the first.
        """
        losses, counts = self._row_losses(model, examples, batch_size)
        scores = _scores(losses, counts, examples)
        tables = {UNIFORM: uniform_losses(model.shape.vocab_size)}
        if len(train):
            tables[UNIGRAM] = unigram_losses(_token_portions(train), model.shape.vocab_size)
        trivial = {
            answer: values_of(
                _scores([table[example.ids[1:]].sum() for example in examples], counts, examples)
            )
            for answer, table in tables.items()
        }
        return Evaluation.of(scores, trivial, examples=len(examples))

    def score_texts(
        self, examples: Sequence[Example], texts: Sequence[str], train: Sequence[Example]
    ) -> dict[str, Score]:
        """Raise UsageError: plain text has a perplexity and no scores of continuations."""
        raise UsageError(f"{self.context.name} has no scores of continuations")

    def prediction_lines(self, predictions: Sequence[Mapping[str, Any]]) -> list[str]:
        """Raise UsageError: plain text has scores and no predictions."""
        raise UsageError(f"{self.context.name} has no predictions to write", "leave --predictions out")

    def _row_losses(
        self, model: GPT2, examples: Sequence[Example], batch_size: int
    ) -> tuple[list[float], list[int]]:
        losses: list[float] = []
        counts: list[int] = []
        for start in range(0, len(examples), batch_size):
            batch = self.collate(examples[start : start + batch_size], 0)
            with torch.no_grad():
                hidden = model(batch.input_ids.to(model.device))
            for row, targets in zip(hidden, batch.targets.to(model.device), strict=True):
                wanted = targets >= 0
                losses.append(float(token_losses(row[wanted], model.wte.weight, targets[wanted]).sum()))
                counts.append(int(wanted.sum()))
        return losses, counts


def _scores(losses: Sequence[float], counts: Sequence[int], rows: Sequence[Example]) -> dict[str, Score]:
    """Return the scores for summed losses (N,), in nats, of rows that predict `counts` (N,) tokens each."""
    per_token = perplexity(losses, counts)
    scores = {"perplexity": per_token, "loss": replace(per_token, formula=ratio)}
    if isinstance(rows, TokenRows):
        tokens_per_byte = len(rows.ids) / rows.text_bytes
        bits = per_token.counts * [tokens_per_byte / math.log(2), 1.0]
        scores["bits_per_byte"] = replace(per_token, counts=bits, formula=ratio)
    return scores


def _token_portions(rows: Sequence[Example]) -> Iterator[ArrayLike]:
    """Yield the token ids of all rows; those of a memory-mapped file come in portions that fit in memory."""
    if not isinstance(rows, TokenRows):
        yield from (row.ids for row in rows)
        return
    for start in range(0, len(rows.ids), TOKENS_AT_ONCE):
        yield rows.ids[start : start + TOKENS_AT_ONCE]


def tokenise(source: str, tokenizer: Tokenizer, encoding: str = AUTO) -> tuple[NDArray[np.integer], int]:
    """Return the token ids of a file or stdin and the size of its text in bytes.

    Each document ends with an end-of-text token. The ids of a file are memory-mapped, and cached by file,
    tokenizer and encoding. Raises DataError for a file that is not text.
    """
    kind: np.dtype[np.integer] = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    encoded = _encoded(source, tokenizer, encoding, kind)
    if source == STDIN:
        portions = list(encoded)
        return np.concatenate([ids for ids, _ in portions]), sum(size for _, size in portions)
    check_is_file(Path(source))
    ids_file = _cached_ids(source, tokenizer, encoding)
    facts_file = ids_file.with_suffix(".json")
    if not (ids_file.exists() and facts_file.exists()):
        try:
            text_bytes = _write_ids(encoded, ids_file)
            write_atomically(facts_file, json.dumps({"file": source, "text_bytes": text_bytes}))
        except WriteError as error:
            error.hint = f"free some space, or keep the cache in another folder: {VARIABLE}=FOLDER"
            raise
    text_bytes = int(json.loads(facts_file.read_text(encoding="utf-8"))["text_bytes"])
    return np.memmap(ids_file, dtype=kind, mode="r"), text_bytes


def _write_ids(encoded: Iterator[tuple[NDArray[np.integer], int]], ids_file: Path) -> int:
    """Write the ids of all portions; return the size of their text in bytes."""
    text_bytes = 0
    with writing(ids_file) as write:
        for ids, size in encoded:
            write(ids.tobytes())
            text_bytes += size
    return text_bytes


def _cached_ids(source: str, tokenizer: Tokenizer, encoding: str) -> Path:
    """Return the cache file for the ids of a text file in its current version."""
    status = Path(source).stat()
    key = f"{Path(source).resolve()} {status.st_size} {status.st_mtime_ns} {tokenizer.digest} {encoding}"
    return cache_folder() / "tokens" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.bin"


def _encoded(
    source: str, tokenizer: Tokenizer, encoding: str, kind: np.dtype[np.integer]
) -> Iterator[tuple[NDArray[np.integer], int]]:
    """Yield the ids and the size in bytes of each portion of the documents."""
    for portion in _portions(stream_documents(source, encoding)):
        ids = [token for row in tokenizer.encode_batch(portion) for token in (*row, tokenizer.eos)]
        yield np.array(ids, dtype=kind), sum(len(document.encode()) for document in portion)


def _portions(documents: Iterator[str]) -> Iterator[list[str]]:
    while portion := list(islice(documents, DOCUMENTS_AT_ONCE)):
        yield portion
