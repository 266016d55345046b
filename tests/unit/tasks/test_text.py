"""Plain text: rows that cover every token once, the loss of transformers, and tokens kept in the cache."""

from __future__ import annotations

import io
import json
import lzma
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from explora.core.base.tokenizer import Tokenizer, load_tokenizer
from explora.core.cache import cache_folder
from explora.core.config.concerns import DataConfig, EncodingConfig
from explora.core.model.gpt2 import GPT2
from explora.core.tasks import text as text_module
from explora.core.tasks.contract import TaskContext
from explora.core.tasks.text import Text, TokenRows, tokenise
from explora.errors import DataError
from tests.tiny_models import SAMPLES, SHAPE, randomise

Make = Callable[..., Text]
SAMPLE = SAMPLES / "text" / "text-train.txt"
PLAIN = DataConfig()


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> Tokenizer:
    return load_tokenizer(tiny_base)


@pytest.fixture
def make(tokenizer: Tokenizer) -> Make:
    def build(max_length: int = 1 << 20) -> Text:
        encoding = EncodingConfig(max_length=max_length)
        return Text(
            TaskContext(
                name="text",
                tokenizer=tokenizer,
                encoding=encoding,
                needs_head=False,
                n_positions=SHAPE.n_positions,
                seed=0,
            )
        )

    return build


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """A few documents of the sample text, in a file of its own."""
    file = tmp_path / "sample.txt"
    file.write_text("\n\n".join(documents_of(SAMPLE)[:6]), encoding="utf-8")
    return file


def documents_of(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").strip().split("\n\n")


def rows_of(task: Text, file: Path | str) -> TokenRows:
    rows = task.read(str(file), PLAIN).examples
    assert isinstance(rows, TokenRows)
    return rows


def joined(rows: TokenRows) -> list[int]:
    return [token for i in range(len(rows)) for token in rows[i].ids]


# --- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [8, 24, 191, 1 << 20])
def test_rows_hold_every_token_once_and_in_order(
    make: Make, tokenizer: Tokenizer, sample: Path, length: int
) -> None:
    expected = [t for text in documents_of(sample) for t in (*tokenizer.encode(text), tokenizer.eos)]
    rows = rows_of(make(length), sample)
    assert joined(rows) == expected
    width = min(length, SHAPE.n_positions)
    assert {len(rows[i].ids) for i in range(len(rows) - 1)} == {width}
    assert 1 <= len(rows[len(rows) - 1].ids) <= width


def test_rows_are_a_sequence(make: Make, sample: Path) -> None:
    rows = rows_of(make(50), sample)
    assert [row.ids for row in rows] == [rows[i].ids for i in range(len(rows))]
    assert [row.row.id for row in rows[1:4]] == ["1", "2", "3"]
    for index in (-1, len(rows)):
        with pytest.raises(IndexError):
            rows[index]


def test_targets_are_the_next_tokens_of_the_same_row(make: Make, sample: Path) -> None:
    rows = rows_of(make(20), sample)
    last = len(rows) - 1
    batch = make(20).collate([rows[0], rows[last]], 0)
    assert batch.targets[0].tolist() == [*rows[0].ids[1:], -100]
    short = list(rows[last].ids)
    assert batch.targets[1].tolist() == short[1:] + [-100] * (21 - len(short))
    assert batch.weight == len(rows[0].ids) + len(short) - 2


def test_packed_text_and_json_lines_give_the_same_rows(make: Make, sample: Path, tmp_path: Path) -> None:
    expected = joined(rows_of(make(), sample))
    packed, lines = tmp_path / "packed.xz", tmp_path / "lines.jsonl"
    packed.write_bytes(lzma.compress(sample.read_bytes()))
    lines.write_text("\n".join(json.dumps({"text": text}) for text in documents_of(sample)), encoding="utf-8")
    for file in (packed, lines):
        assert joined(rows_of(make(), file)) == expected


# --- loss -----------------------------------------------------------------------------------------


@torch.no_grad()
def their_loss(model: GPT2, ids: list[int], window: int) -> float:
    """The mean loss of transformers on consecutive windows, each weighted by what it predicts."""
    theirs = GPT2LMHeadModel(GPT2Config(**vars(model.shape))).eval()
    theirs.transformer.load_state_dict(model.state_dict())
    total = count = 0.0
    for start in range(0, len(ids), window):
        part = torch.tensor([ids[start : start + window]])
        if part.shape[1] > 1:
            total += float(theirs(input_ids=part, labels=part).loss) * (part.shape[1] - 1)
            count += part.shape[1] - 1
    return total / count


@pytest.mark.parametrize("length", [24, 1 << 20])
def test_the_loss_is_that_of_transformers_on_consecutive_windows(
    make: Make, sample: Path, length: int
) -> None:
    task, model = make(length), randomise(GPT2(SHAPE)).eval()
    rows = rows_of(task, sample)
    window = min(length, SHAPE.n_positions)
    expected = their_loss(model, joined(rows), window)
    evaluation = task.evaluate(model, rows, [], 3)
    assert evaluation.scores is not None
    assert evaluation.scores["loss"] == pytest.approx(expected, abs=1e-4)
    assert evaluation.scores["perplexity"] == pytest.approx(math.exp(expected), rel=1e-4)
    assert task.dev_score(model, rows, 5).value == pytest.approx(evaluation.scores["perplexity"], rel=1e-6)
    batch = task.collate(rows, 0)
    assert float(task.loss(model, batch).detach()) / batch.weight == pytest.approx(expected, abs=1e-4)
    off_by_one = their_loss(model, joined(rows)[1:], window)
    assert abs(evaluation.scores["loss"] - off_by_one) > 1e-4


def test_bits_per_byte_are_the_bits_of_a_token_over_its_bytes(make: Make, sample: Path) -> None:
    task, model = make(), randomise(GPT2(SHAPE)).eval()
    rows = rows_of(task, sample)
    evaluation = task.evaluate(model, rows, [], 3)
    scores, floors = evaluation.scores, evaluation.floors
    assert scores is not None
    text_bytes = sum(len(text.encode()) for text in documents_of(sample))
    assert rows.text_bytes == text_bytes
    tokens = len(joined(rows))
    assert scores["bits_per_byte"] == pytest.approx(scores["loss"] / math.log(2) * tokens / text_bytes)
    assert floors["loss"] == pytest.approx(math.log(SHAPE.vocab_size))
    assert floors["bits_per_byte"] == pytest.approx(math.log2(SHAPE.vocab_size) * tokens / text_bytes)
    for name, (low, high) in evaluation.intervals.items():
        assert low < scores[name] < high


def test_unigram_frequencies_of_the_training_text_are_the_trivial_answer(make: Make, sample: Path) -> None:
    task, model = make(), randomise(GPT2(SHAPE)).eval()
    rows = rows_of(task, sample)
    evaluation = task.evaluate(model, rows, rows, 3)
    seen = Counter(joined(rows))
    total = sum(seen.values()) + len(seen)
    loss = {token: -math.log((count + len(seen) / SHAPE.vocab_size) / total) for token, count in seen.items()}
    expected = fmean(loss[token] for row in rows for token in row.ids[1:])
    assert evaluation.floors["loss"] == pytest.approx(expected)
    assert evaluation.floors["perplexity"] == pytest.approx(math.exp(expected))
    assert set(evaluation.trivial_answers.values()) == {"unigram frequencies"}
    assert not any(evaluation.higher_is_better.values())


def test_bytes_are_counted_and_not_characters(make: Make, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("naïve café\n\n雨が降る\nsecond line\n", encoding="utf-8")
    assert rows_of(make(), file).text_bytes == len("naïve café".encode() + "雨が降る\nsecond line".encode())


# --- train and dev --------------------------------------------------------------------------------


def test_the_last_tenth_of_a_single_file_is_dev(make: Make, sample: Path) -> None:
    config = DataConfig(data=str(sample))
    whole = joined(rows_of(make(24), sample))
    train, dev = (make(24).load(config, split).examples for split in ("train", "dev"))
    assert isinstance(train, TokenRows)
    assert isinstance(dev, TokenRows)
    assert joined(train) + joined(dev) == whole
    assert len(joined(dev)) == pytest.approx(len(whole) / 10, abs=1)
    assert train.text_bytes + dev.text_bytes == pytest.approx(rows_of(make(), sample).text_bytes, abs=1)


def test_dev_is_the_same_text_for_longer_rows(make: Make, sample: Path) -> None:
    """A run trained on short rows is scored on long ones: no token of its training may be among them."""
    config = DataConfig(data=str(sample))
    found = [make(length).load(config, "dev").examples for length in (24, 100, 192)]
    assert all(joined(rows) == joined(found[0]) for rows in found)  # type: ignore[arg-type]


def test_with_a_dev_file_all_of_both_is_used(make: Make, sample: Path, tmp_path: Path) -> None:
    dev = tmp_path / "other.txt"
    dev.write_text("Quite another text.\n", encoding="utf-8")
    config = DataConfig(data=str(sample), dev=str(dev))
    for split, file in (("train", sample), ("dev", dev)):
        rows = make().load(config, split).examples
        assert joined(rows) == joined(rows_of(make(), file))  # type: ignore[arg-type]


@pytest.mark.parametrize("split", ["train", "dev"])
def test_a_file_too_short_for_a_dev_part_is_an_error(make: Make, tmp_path: Path, split: str) -> None:
    file = tmp_path / "short.txt"
    file.write_text("a b c\n", encoding="utf-8")
    with pytest.raises(DataError, match="too few") as refusal:
        make().load(DataConfig(data=str(file)), split)
    assert refusal.value.file == str(file)
    assert "--dev" in refusal.value.hint


@pytest.mark.parametrize("tokens", range(11, 40))
def test_dev_always_has_something_to_predict(make: Make, tmp_path: Path, tokens: int) -> None:
    """A dev part of one token would have the perplexity 1."""
    file = tmp_path / "text.txt"
    file.write_text("!" * (tokens - 1), encoding="utf-8")
    task, model = make(8), randomise(GPT2(SHAPE)).eval()
    assert len(rows_of(task, file).ids) == tokens
    dev = task.load(DataConfig(data=str(file)), "dev").examples
    assert task.dev_score(model, dev, 4).value > 10


# --- the cache ------------------------------------------------------------------------------------


@pytest.fixture
def tokenised(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """An empty cache, and a list of what is tokenised."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    seen: list[str] = []
    read = text_module.stream_documents

    def noted(source: str, encoding: str) -> Iterator[str]:
        seen.append(source)
        return read(source, encoding)

    monkeypatch.setattr(text_module, "stream_documents", noted)
    return seen


def test_a_file_is_tokenised_once(tokenised: list[str], tokenizer: Tokenizer, sample: Path) -> None:
    first, size = tokenise(str(sample), tokenizer)
    second, same_size = tokenise(str(sample), tokenizer)
    assert tokenised == [str(sample)]
    assert np.array_equal(first, second)
    assert size == same_size
    assert isinstance(second, np.memmap)
    assert first.dtype == np.uint16


def test_a_changed_file_is_tokenised_again(tokenised: list[str], tokenizer: Tokenizer, sample: Path) -> None:
    before, _ = tokenise(str(sample), tokenizer)
    status, text = sample.stat(), sample.read_text(encoding="utf-8")
    sample.write_text(text.replace("the", "eht"), encoding="utf-8")  # of the same size
    os.utime(sample, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    after, _ = tokenise(str(sample), tokenizer)
    assert len(tokenised) == 2
    assert not np.array_equal(before, after)


def test_another_tokenizer_has_tokens_of_its_own(
    tokenised: list[str], tokenizer: Tokenizer, sample: Path
) -> None:
    from explora.core.base.tokenizer import train_tokenizer

    tokenise(str(sample), tokenizer)
    other = train_tokenizer(documents_of(SAMPLE), 400)
    ids, _ = tokenise(str(sample), other)
    assert len(tokenised) == 2
    assert ids.tolist()[:20] == other.encode(documents_of(sample)[0])[:20]


@pytest.mark.parametrize("suffix", [".bin", ".json"])
def test_a_cache_with_a_part_missing_is_made_again(
    tokenised: list[str], tokenizer: Tokenizer, sample: Path, suffix: str
) -> None:
    before = tokenise(str(sample), tokenizer)[0].tolist()
    (file,) = (cache_folder() / "tokens").glob(f"*{suffix}")
    file.unlink()
    assert tokenise(str(sample), tokenizer)[0].tolist() == before
    assert len(tokenised) == 2


def test_a_file_that_breaks_off_leaves_nothing_behind(
    tokenised: list[str], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    file = tmp_path / "bad.txt"
    file.write_bytes(b"a good line\n\nand \xff no text\n")
    with pytest.raises(DataError, match="not UTF-8"):
        tokenise(str(file), tokenizer)
    assert list((cache_folder() / "tokens").iterdir()) == []


def test_standard_input_is_read_and_not_kept(
    tokenised: list[str], make: Make, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(sample.read_bytes())))
    monkeypatch.setattr(sys, "stdin", stdin)
    rows = rows_of(make(), "-")
    assert not (cache_folder() / "tokens").exists()
    assert joined(rows) == joined(rows_of(make(), sample))
    assert rows.file == "<stdin>"


@pytest.mark.parametrize(("content", "told"), [(b"", "empty"), (b"\n \n", "empty"), (b"PK\x03\x04", "zip")])
def test_what_is_no_text_is_refused(make: Make, tmp_path: Path, content: bytes, told: str) -> None:
    file = tmp_path / "file.txt"
    file.write_bytes(content)
    with pytest.raises(DataError, match=told):
        make().read(str(file), PLAIN)


def test_a_file_that_is_not_there_is_told_with_its_neighbours(make: Make, sample: Path) -> None:
    with pytest.raises(DataError, match="no such file") as refusal:
        make().read(str(sample.parent / "simple.txt"), PLAIN)
    assert "sample.txt" in refusal.value.hint
