"""Paraphrase: the cloze, its label words, what is cut, which labels are read."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from explora.core.base.tokenizer import Tokenizer, load_tokenizer
from explora.core.config.concerns import DataConfig, EncodingConfig
from explora.core.config.registry import PARAPHRASE_TEMPLATE
from explora.core.data.splits import Row
from explora.core.model.gpt2 import GPT2
from explora.core.tasks.contract import Example, TaskContext
from explora.core.tasks.paraphrase import Paraphrase
from explora.errors import DataError, UsageError
from tests.tiny_models import SHAPE, randomise

Make = Callable[..., Paraphrase]
PAIRS = [
    ("Is it raining?", "Does it rain?"),
    ("How do I learn to play the guitar on my own?", "Guitar alone?"),
    ("A", "B"),
    ("Why is the sky blue in the morning, and red at night?", "What makes the sky blue?"),
]


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> Tokenizer:
    return load_tokenizer(tiny_base)


@pytest.fixture
def make(tokenizer: Tokenizer) -> Make:
    def build(needs_head: bool = False, **encoding: object) -> Paraphrase:
        chosen = {"template": PARAPHRASE_TEMPLATE, "label_words": ("yes", "no"), "max_length": 192}
        context = TaskContext(
            name="paraphrase",
            tokenizer=tokenizer,
            encoding=EncodingConfig(**(chosen | encoding)),  # type: ignore[arg-type]
            needs_head=needs_head,
            n_positions=SHAPE.n_positions,
            seed=0,
        )
        return Paraphrase(context)

    return build


def row(first: str, second: str, line: int = 2) -> Row:
    return Row(file="pairs.csv", line=line, id=str(line), values={"sentence1": first, "sentence2": second})


def text_of(task: Paraphrase, first: str, second: str) -> str:
    (ids,) = task.encode([row(first, second)])
    return task.context.tokenizer.decode(ids)


# --- trivial answers ------------------------------------------------------------------------------


@pytest.mark.parametrize(("yes", "answer"), [(3, "always yes"), (1, "always no")])
def test_the_best_constant_answer_is_the_floor(make: Make, yes: int, answer: str) -> None:
    task, labels = make(), [1] * yes + [0] * (4 - yes)
    model = randomise(GPT2(SHAPE)).eval()
    encoded = task.encode([row(*pair) for pair in PAIRS])
    examples = [
        Example(row=row(*pair), ids=ids, label=label)
        for pair, ids, label in zip(PAIRS, encoded, labels, strict=True)
    ]
    evaluation = task.evaluate(model, examples, [], 4)
    assert evaluation.floors == {
        "accuracy": 0.75,
        "macro_f1": 0.5,  # of random guesses: a constant answer has 3 / 7
        "positive_f1": pytest.approx(2 * yes / (yes + 4)),  # of always yes, whatever is frequent
    }
    assert evaluation.trivial_answers == {
        "accuracy": answer,
        "macro_f1": "random guesses",
        "positive_f1": "always yes",
    }


# --- the answer -----------------------------------------------------------------------------------


def cloze_logits(task: Paraphrase, model: GPT2, shift: int = 0) -> Tensor:
    """Class logits as loss and evaluation compute them; a shift plants a bug."""
    split = task.encode([row(*pair) for pair in PAIRS])
    batch = task.collate([Example(row=row("", ""), ids=ids) for ids in split], 0)
    hidden = model(batch.input_ids, batch.positions + shift)[:, 0]
    return task.class_logits(model, hidden).detach()


def full_vocabulary_logits(task: Paraphrase, model: GPT2) -> Tensor:
    """The logits of no and yes after each question, unpadded, from all logits of transformers."""
    theirs = GPT2LMHeadModel(GPT2Config(**vars(model.shape))).eval()
    theirs.transformer.load_state_dict(model.state_dict())
    words = [task.context.tokenizer.encode(word) for word in ("no", "yes")]
    columns = torch.tensor(words).flatten()
    with torch.no_grad():
        rows = [theirs(torch.tensor(task.encode([row(*pair)]))).logits[0, -1, columns] for pair in PAIRS]
    return torch.stack(rows)


def test_the_class_logits_are_those_of_the_label_words_in_the_whole_vocabulary(make: Make) -> None:
    task, model = make(), randomise(GPT2(SHAPE)).eval()
    expected = full_vocabulary_logits(task, model)
    torch.testing.assert_close(cloze_logits(task, model), expected, rtol=0, atol=1e-5)
    assert float((expected[:, 0] - expected[:, 1]).abs().max()) > 1e-2  # that a swap would show


@pytest.mark.parametrize("bug", ["one position early", "swapped words"])
def test_a_planted_bug_is_seen(make: Make, bug: str) -> None:
    task, model = make(), randomise(GPT2(SHAPE)).eval()
    expected = full_vocabulary_logits(task, model)
    if bug == "swapped words":
        task.label_rows = task.label_rows.flip(0)
    found = cloze_logits(task, model, -1 if bug == "one position early" else 0)
    assert float((found - expected).abs().max()) > 1e-2


def test_the_loss_is_the_cross_entropy_of_the_two_words(make: Make, tmp_path: Path) -> None:
    task, model = make(), randomise(GPT2(SHAPE)).eval()
    file = tmp_path / "pairs.tsv"
    lines = ["sentence1\tsentence2\tlabel"]
    lines += [f"{first}\t{second}\t{i % 2}" for i, (first, second) in enumerate(PAIRS)]
    file.write_text("\n".join(lines), encoding="utf-8")
    examples = task.read(str(file), DataConfig()).examples
    expected = nn.functional.cross_entropy(
        full_vocabulary_logits(task, model), torch.tensor([0, 1, 0, 1]), reduction="sum"
    )
    assert float(task.loss(model, task.collate(examples, 0)).detach()) == pytest.approx(
        float(expected), rel=1e-5
    )
    probabilities = task.probabilities(model, examples, 3)
    torch.testing.assert_close(probabilities, full_vocabulary_logits(task, model).softmax(-1))


def test_a_word_follows_a_space_of_the_template_or_brings_its_own(make: Make, tokenizer: Tokenizer) -> None:
    def words(template: str) -> list[str]:
        return [tokenizer.decode([token]) for token in make(template=template).label_rows.tolist()]

    assert words("{sentence1} or {sentence2}? ") == ["no", "yes"]
    assert words("{sentence1} or {sentence2}?\n") == ["no", "yes"]
    assert words("{sentence1} or {sentence2}?") == [" no", " yes"]


def test_other_label_words_take_the_places_of_yes_and_no(make: Make, tokenizer: Tokenizer) -> None:
    task = make(label_words=("no", "yes"))
    assert task.label_rows.tolist() == [tokenizer.encode("yes")[0], tokenizer.encode("no")[0]]
    assert task.labels == ("0", "1")


@pytest.mark.parametrize("words", [("absolutely", "no"), ("yes", "never ever"), ("", "no")])
def test_a_label_word_is_one_token(make: Make, words: tuple[str, str]) -> None:
    with pytest.raises(UsageError, match="instead of one"):
        make(label_words=words)


def test_last_linear_has_a_head_of_its_own(make: Make) -> None:
    task, model = make(needs_head=True), randomise(GPT2(SHAPE)).eval()
    assert (task.head_classes(), make().head_classes()) == (2, None)
    model.score = nn.Linear(SHAPE.n_embd, 2, bias=False)
    hidden = torch.randn(3, SHAPE.n_embd)
    torch.testing.assert_close(task.class_logits(model, hidden), hidden @ model.score.weight.T)


# --- the template ---------------------------------------------------------------------------------


def test_a_template_keeps_its_doubled_braces(make: Make) -> None:
    task = make(template="{{a}} {sentence2}, {sentence1}: ")
    assert text_of(task, "one", "two") == "{a} two, one: "


@pytest.mark.parametrize("sentence", ["{x}", "{sentence2}", "{{}}", "}{", "{0!r:>9}", "%s $y \\n"])
def test_sentences_may_hold_anything(make: Make, sentence: str) -> None:
    expected = f'Is "{sentence}" a paraphrase of "other {sentence}"? Answer "yes" or "no": '
    assert text_of(make(), sentence, f"other {sentence}") == expected
    long = f"{sentence} " * 60
    assert text_of(make(), long, sentence).startswith(f'Is "{sentence} {sentence}')


# --- too long -------------------------------------------------------------------------------------

WORDS = [
    "the harbour",
    "café",
    "naïve",
    "雨が降る",
    "🌧🌧",
    "it's 1,234",
    "{brace}",
    '"quoted"',
    "Ελλάδα",
    "no-one\tand",
]


def cut_parts(task: Paraphrase, ids: list[int]) -> tuple[str, str]:
    """Return what is left of both sentences; fails unless the template is there whole."""
    text = task.context.tokenizer.decode(ids)
    head, middle, tail = (
        PARAPHRASE_TEMPLATE.replace("{sentence1}", "\0").replace("{sentence2}", "\0").split("\0")
    )
    assert text.startswith(head)
    assert text.endswith(tail)
    first, found, second = text[len(head) : -len(tail)].rpartition(middle)
    assert found
    return first, second


@pytest.mark.parametrize("seed", range(60))
def test_the_sentences_are_cut_and_never_the_template(make: Make, seed: int) -> None:
    draw = random.Random(seed)
    limit = draw.randint(60, 192)
    task = make(max_length=limit)
    first, second = (" ".join(draw.choices(WORDS, k=draw.choice((1, 5, 40, 200)))) for _ in "12")
    (ids,) = task.encode([row(first, second)])
    left, right = cut_parts(task, ids)
    assert len(ids) <= limit
    assert first.startswith(left)
    assert second.startswith(right)
    whole = task.context.tokenizer.encode(PARAPHRASE_TEMPLATE.format(sentence1=first, sentence2=second))
    if len(whole) <= limit:
        assert (left, right) == (first, second)
    else:
        assert len(ids) >= limit - 12  # a character of several bytes is dropped whole


def test_the_longer_sentence_is_cut_first(make: Make) -> None:
    task, long = make(max_length=100), "the keeper of the lamp " * 50
    for pair in (("short one", long), (long, "short one")):
        (ids,) = task.encode([row(*pair)])
        parts = cut_parts(task, ids)
        assert "short one" in parts
        assert all(len(part) > 5 for part in parts)
    (ids,) = task.encode([row(long, long)])
    first, second = cut_parts(task, ids)
    assert abs(len(first) - len(second)) < 30


def test_the_context_of_the_model_is_a_limit_too(make: Make) -> None:
    (ids,) = make(max_length=100_000).encode([row("lamp " * 500, "oil")])
    assert SHAPE.n_positions - 12 <= len(ids) <= SHAPE.n_positions


def test_a_very_long_sentence_is_cut_quickly(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make(max_length=100)
    calls = []
    encode = task.context.tokenizer.encode
    monkeypatch.setattr(
        task.context.tokenizer,
        "encode",
        lambda text: calls.append(text) or encode(text),  # type: ignore[func-returns-value]
    )
    task.encode([row("the lamp " * 20_000, "雨 " * 20_000)])
    assert len(calls) < 60


def test_a_template_that_leaves_no_room_is_told_with_the_row(make: Make) -> None:
    with pytest.raises(DataError, match="no room") as refusal:
        make(max_length=20).encode([row("a", "b", line=7)])
    assert (refusal.value.file, refusal.value.line) == ("pairs.csv", 7)
    assert "--max-length" in refusal.value.hint


# --- labels ---------------------------------------------------------------------------------------


def labels_of(task: Paraphrase, file: Path, labels: list[str], **config: object) -> list[int | None]:
    rows = [f"one,two,{label}" for label in labels]
    file.write_text("\n".join(["sentence1,sentence2,label", *rows]), encoding="utf-8")
    return [example.label for example in task.read(str(file), DataConfig(**config)).examples]  # type: ignore[arg-type]


def test_every_usual_spelling_of_a_label_is_read(make: Make, tmp_path: Path) -> None:
    yes = ["1", "1.0", "yes", "Yes", "TRUE", "true", "1.00", "01", "8505"]
    no = ["0", "0.0", "no", "NO", "False", "false", "-0.0", "00", "3919"]
    assert labels_of(make(), tmp_path / "rows.csv", yes + no) == [1] * len(yes) + [0] * len(no)


@pytest.mark.parametrize("label", ["2", "maybe", "0.5", "yes no"])
def test_another_label_is_an_error_with_its_place(make: Make, tmp_path: Path, label: str) -> None:
    with pytest.raises(DataError, match=f"'{label}': use yes/no, true/false or 1/0") as refusal:
        labels_of(make(), tmp_path / "rows.csv", ["1", "0", label])
    error = refusal.value
    assert (error.file, error.line, error.column) == (str(tmp_path / "rows.csv"), 4, "label")
    assert "--skip-bad" in error.hint


def test_skip_bad_leaves_out_a_row_with_another_label(make: Make, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    assert labels_of(make(), file, ["1", "maybe", "0"], skip_bad=True) == [1, 0]
    split = make().read(str(file), DataConfig(skip_bad=True))
    assert list(split.skipped) == [f"{file}:3: column label: 'maybe': use yes/no, true/false or 1/0"]
    with pytest.raises(DataError, match=r"no usable row; the first problem: .*'maybe'"):
        labels_of(make(), file, ["maybe", "perhaps"], skip_bad=True)


def test_one_class_is_nothing_to_learn(make: Make, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("sentence1,sentence2,label\na,b,1\nc,d,yes\n", encoding="utf-8")
    with pytest.raises(DataError, match="nothing to learn"):
        make().load(DataConfig(data=str(tmp_path)), "train")
