"""Sentiment: the head of GPT2ForSequenceClassification, and classes learned from the labels there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2ForSequenceClassification

from explora.core.base.tokenizer import Tokenizer, load_tokenizer
from explora.core.config.concerns import DataConfig, EncodingConfig
from explora.core.data.splits import Row
from explora.core.model.gpt2 import GPT2
from explora.core.tasks.contract import Example, TaskContext
from explora.core.tasks.sentiment import Sentiment
from explora.errors import DataError
from tests.tiny_models import SHAPE, randomise

Make = Callable[..., Sentiment]
CLASSES = 4
LABELS = ("0", "1", "2", "3")
TEXTS = [
    "A film.",
    "It 's a lovely film with lovely performances by Buy and Accorsi .",
    "No",
    "Uses sharp humor and insight into human nature to examine class conflict , and yet .",
    "!",
]


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> Tokenizer:
    return load_tokenizer(tiny_base)


@pytest.fixture
def make(tokenizer: Tokenizer) -> Make:
    def build(labels: tuple[str, ...] = (), max_length: int = 512) -> Sentiment:
        context = TaskContext(
            name="sentiment",
            tokenizer=tokenizer,
            encoding=EncodingConfig(max_length=max_length),
            needs_head=False,
            n_positions=SHAPE.n_positions,
            seed=0,
            labels=labels,
        )
        return Sentiment(context)

    return build


def write(file: Path, labels: Sequence[str]) -> DataConfig:
    lines = ["sentence,label", *(f"text {i},{label}" for i, label in enumerate(labels))]
    file.write_text("\n".join(lines), encoding="utf-8")
    return DataConfig(data=str(file.parent))


# --- the head -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> GPT2:
    model = randomise(GPT2(SHAPE)).eval()
    model.score = nn.Linear(SHAPE.n_embd, CLASSES, bias=False)
    nn.init.normal_(model.score.weight, generator=torch.Generator().manual_seed(1))
    return model


def their_logits(model: GPT2, rows: Sequence[Sequence[int]], eos: int) -> Tensor:
    """The logits of transformers with the same weights, padded on the right."""
    config = GPT2Config(**vars(model.shape), num_labels=CLASSES, pad_token_id=eos)
    theirs = GPT2ForSequenceClassification(config).eval()
    weights = {f"transformer.{name}": value for name, value in model.state_dict().items()}
    weights["score.weight"] = weights.pop("transformer.score.weight")
    theirs.load_state_dict(weights)
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[eos] * (width - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    with torch.no_grad():
        logits: Tensor = theirs(input_ids=ids, attention_mask=mask).logits
    return logits


def our_logits(task: Sentiment, model: GPT2, encoded: Sequence[Sequence[int]]) -> Tensor:
    row = Row(file="f", line=1, id="1", values={})
    batch = task.collate([Example(row=row, ids=ids, label=0) for ids in encoded], 0)
    with torch.no_grad():
        return task.class_logits(model, model(batch.input_ids, batch.positions)[:, 0])


def encode(task: Sentiment, texts: Sequence[str] = TEXTS) -> list[list[int]]:
    return task.encode(
        [Row(file="f", line=i, id=str(i), values={"sentence": text}) for i, text in enumerate(texts)]
    )


def test_the_logits_are_those_of_transformers(make: Make, model: GPT2, tokenizer: Tokenizer) -> None:
    task = make(LABELS)
    encoded = encode(task)
    assert len({len(ids) for ids in encoded}) == len(TEXTS)
    expected = their_logits(model, encoded, tokenizer.eos)
    torch.testing.assert_close(our_logits(task, model, encoded), expected, rtol=0, atol=1e-5)


def test_another_token_than_the_last_is_seen(make: Make, model: GPT2, tokenizer: Tokenizer) -> None:
    task = make(LABELS)
    encoded = encode(task)[:2]
    expected = their_logits(model, encoded, tokenizer.eos)
    before = our_logits(task, model, [ids[:-1] for ids in encoded])
    after = our_logits(task, model, [[*ids, tokenizer.eos] for ids in encoded])
    for found in (before, after):
        assert float((found - expected).abs().min(dim=0).values.max()) > 1e-2


def test_nothing_is_appended_and_the_end_is_cut(make: Make, tokenizer: Tokenizer) -> None:
    whole = encode(make(LABELS))
    assert whole == tokenizer.encode_batch(TEXTS)
    assert encode(make(LABELS, max_length=9)) == [ids[:9] for ids in whole]
    (longest,) = encode(make(LABELS), ["film " * 500])
    assert longest == tokenizer.encode("film " * 500)[: SHAPE.n_positions]


def test_probabilities_and_loss_are_softmax_of_these_logits(
    make: Make, model: GPT2, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [f'{{"sentence": "{text}", "label": {(i + 1) % CLASSES}}}' for i, text in enumerate(TEXTS)]
    file.write_text("\n".join(rows), encoding="utf-8")
    task = make(LABELS)
    examples = task.read(str(file), DataConfig()).examples
    logits = their_logits(model, [example.ids for example in examples], tokenizer.eos)
    torch.testing.assert_close(task.probabilities(model, examples, 2), logits.softmax(-1))
    expected = nn.functional.cross_entropy(logits, torch.tensor([1, 2, 3, 0, 1]), reduction="sum")
    loss = task.loss(model, task.collate(examples, 0)).detach()
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    evaluation = task.evaluate(model, examples, [], 2)
    answers = [task.labels[i] for i in logits.argmax(-1).tolist()]
    assert [item["prediction"] for item in evaluation.predictions] == answers
    assert [item["label"] for item in evaluation.predictions] == ["1", "2", "3", "0", "1"]
    assert evaluation.scores is not None
    right = sum(a == b for a, b in zip(answers, ["1", "2", "3", "0", "1"], strict=True))
    assert evaluation.scores["accuracy"] == pytest.approx(right / 5)
    assert evaluation.floors["accuracy"] == pytest.approx(2 / 5)
    assert evaluation.trivial_answers == {"accuracy": "always 1", "macro_f1": "random guesses"}
    assert "positive_f1" not in evaluation.scores


# --- the classes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "learned"),
    [
        (["10", "9", "2", "10"], ("2", "9", "10")),
        (["1.0", "0.0", "1"], ("0", "1")),
        (["-1", "1", "0"], ("-1", "0", "1")),
        (["0.5", "10", "2"], ("0.5", "2", "10")),
        (["good", "bad", "Good"], ("Good", "bad", "good")),
        (["10", "none", "9"], ("9", "10", "none")),
        (["true", "false"], ("false", "true")),
    ],
)
def test_classes_are_numbers_by_value_then_words_by_letter(
    make: Make, tmp_path: Path, labels: list[str], learned: tuple[str, ...]
) -> None:
    task = make()
    examples = task.load(write(tmp_path / "train.csv", labels), "train").examples
    assert task.labels == learned
    assert task.head_classes() == len(learned)
    spelled = [task.labels[example.label] for example in examples if example.label is not None]
    assert spelled == [task.canonical(label) for label in labels]


def test_labels_that_are_known_stay_as_they_are(make: Make, tmp_path: Path) -> None:
    task = make(("bad", "good", "fair"))
    examples = task.load(write(tmp_path / "train.csv", ["good", "bad"]), "train").examples
    assert (task.labels, [example.label for example in examples]) == (("bad", "good", "fair"), [1, 0])


def test_one_class_is_an_error_that_names_it(make: Make, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"every train row has the label '3'") as refusal:
        make().load(write(tmp_path / "train.csv", ["3", "3.0", "3"]), "train")
    assert refusal.value.file == str(tmp_path / "train.csv")


def test_a_class_that_training_never_saw_is_an_error_with_its_place(make: Make, tmp_path: Path) -> None:
    task = make()
    config = write(tmp_path / "train.csv", ["0", "1"])
    task.load(config, "train")
    write(tmp_path / "dev.csv", ["1", "2.0"])
    with pytest.raises(DataError, match=r"'2.0': use one of 0, 1") as refusal:
        task.load(config, "dev")
    error = refusal.value
    assert (error.file, error.line, error.column) == (str(tmp_path / "dev.csv"), 3, "label")


def test_a_dev_score_needs_labels(make: Make, model: GPT2, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("sentence\nsome text\nmore\n", encoding="utf-8")
    task = make(LABELS)
    examples = task.read(str(file), DataConfig()).examples
    with pytest.raises(DataError, match="no label") as refusal:
        task.dev_score(model, examples, 2)
    assert refusal.value.line == 2


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "classes", "train", "dev"), [("sst", 5, 8544, 1101), ("cfimdb", 2, 1707, 245)]
)
def test_the_real_files(make: Make, real_data: Path, name: str, classes: int, train: int, dev: int) -> None:
    task = make()
    config = DataConfig(data=str(real_data / name))
    assert len(task.load(config, "train").examples) == train
    assert task.labels == tuple(map(str, range(classes)))
    assert len(task.load(config, "dev").examples) == dev
    assert {example.label for example in task.load(config, "test").examples} == {None}
