"""Sonnets: where lines end, what is given, what is scored, and what no model at all would score."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from explora.core.base.tokenizer import Tokenizer, load_tokenizer
from explora.core.config.concerns import DataConfig, EncodingConfig
from explora.core.config.precedence import resolve
from explora.core.config.registry import Shape
from explora.core.model.gpt2 import GPT2
from explora.core.tasks.contract import Evaluation, Example, TaskContext
from explora.core.tasks.poem_scores import GIVEN_LINES
from explora.core.tasks.sonnet import Sonnet
from explora.errors import DataError, UsageError
from tests.tiny_models import VOCABULARY, randomise

Make = Callable[..., Sonnet]
SHAPE = Shape(n_layer=1, n_head=2, n_embd=16, n_positions=640, vocab_size=VOCABULARY)
SAMPLES = DataConfig()


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> Tokenizer:
    return load_tokenizer(tiny_base)


@pytest.fixture(scope="module")
def make(tokenizer: Tokenizer) -> Make:
    def build(seed: int = 1, max_length: int = 640) -> Sonnet:
        encoding = EncodingConfig(max_length=max_length)
        return Sonnet(
            TaskContext(
                name="sonnet",
                tokenizer=tokenizer,
                encoding=encoding,
                needs_head=False,
                n_positions=SHAPE.n_positions,
                seed=seed,
            )
        )

    return build


@pytest.fixture(scope="module")
def model() -> GPT2:
    return randomise(GPT2(SHAPE)).eval()


@pytest.fixture(scope="module")
def poems(make: Make) -> list[Example]:
    """The eight dev poems of the samples."""
    return list(make().load(SAMPLES, "dev").examples)


def saying(tokenizer: Tokenizer, logits: dict[str, float]) -> GPT2:
    """A model whose logits are these, whatever it reads, and -20 for all other tokens."""
    model = randomise(GPT2(SHAPE)).eval()
    with torch.no_grad():
        model.ln_f.weight.zero_()
        model.ln_f.bias.zero_()
        model.ln_f.bias[0] = 1
        model.wte.weight[:, 0] = -20
        for text, logit in logits.items():
            (token,) = tokenizer.encode(text)
            model.wte.weight[token, 0] = logit
    return model


def poem(*lines: str) -> str:
    return "\n".join(lines)


def text_of(example: Example) -> str:
    return example.row.values["text"]


def read(task: Sonnet, folder: Path, *texts: str, **config: object) -> list[Example]:
    (folder / "poems.txt").write_text("\n\n".join(texts), encoding="utf-8")
    return list(task.read(str(folder / "poems.txt"), DataConfig(**config)).examples)  # type: ignore[arg-type]


# --- lines ----------------------------------------------------------------------------------------


def test_breaks_are_where_the_lines_end(poems: list[Example], tokenizer: Tokenizer) -> None:
    assert len(poems) == 8
    for example in poems:
        lines = text_of(example).split("\n")
        assert (example.ids[0], example.ids[-1]) == (tokenizer.eos, tokenizer.eos)
        assert example.breaks[-1] == len(example.ids) - 1
        starts = (1, *example.breaks[:-1])
        spans = [example.ids[a:b] for a, b in zip(starts, example.breaks, strict=True)]
        assert [tokenizer.decode(span) for span in spans] == [line + "\n" for line in lines]


def test_a_prompt_begins_as_the_training_poems_do(make: Make, poems: list[Example]) -> None:
    for example in poems:
        lines = text_of(example).split("\n")
        for given, end in enumerate(example.breaks, 1):
            assert make().prompt(poem(*lines[:given]) + "\n", 0).ids == example.ids[:end]


@pytest.mark.parametrize(
    ("given", "left"), [("Shall I", 14), ("a\nb\nc\n", 11), ("a\n" * 14, 1), ("a\n" * 20, 1)]
)
def test_a_continued_poem_has_fourteen_lines_and_at_least_one_is_new(
    make: Make, given: str, left: int
) -> None:
    assert make().prompt(given, 3).lines == left


def test_what_is_too_long_is_cut_with_its_breaks(make: Make, poems: list[Example]) -> None:
    short = make(max_length=200).load(SAMPLES, "dev").examples
    for whole, cut in zip(poems, short, strict=True):
        assert cut.ids == whole.ids[:200]
        assert cut.breaks == tuple(at for at in whole.breaks if at <= 200)


def test_lines_that_are_too_long_to_continue_are_an_error_with_their_place(
    make: Make, tmp_path: Path
) -> None:
    texts = (poem(*["a short line"] * 14), poem("one", "two", "the endless line " * 30, "four"))
    with pytest.raises(
        DataError, match=r"the first 3 lines have .* tokens, more than the limit of 100"
    ) as refusal:
        read(make(max_length=100), tmp_path, *texts)
    assert (refusal.value.file, refusal.value.line) == (str(tmp_path / "poems.txt"), 16)
    (kept,) = read(make(max_length=100), tmp_path, *texts, skip_bad=True)
    assert text_of(kept) == texts[0]
    assert len(read(make(), tmp_path, *texts)) == 2


# --- what is given --------------------------------------------------------------------------------


def given_tokens(task: Sonnet, example: Example, epoch: int) -> int:
    """How many tokens come before the first target."""
    targets = task.collate([example], epoch).targets[0]
    return int((targets >= 0).nonzero()[0]) + 1


def test_the_loss_is_on_all_that_follows_whole_lines(make: Make, poems: list[Example]) -> None:
    task = make()
    for epoch in range(4):
        batch = task.collate(poems, epoch)
        for i, example in enumerate(poems):
            start = given_tokens(task, example, epoch)
            assert start in (1, *example.breaks[:12])
            expected = [-100] * (start - 1) + list(example.ids[start:])
            expected += [-100] * (batch.targets.shape[1] - len(expected))
            assert batch.targets[i].tolist() == expected


def test_from_none_to_twelve_lines_are_given_all_as_often(make: Make, poems: list[Example]) -> None:
    task, epochs = make(), 100
    ends = [{1: 0} | {at: k for k, at in enumerate(example.breaks, 1)} for example in poems]
    drawn = Counter(
        end[given_tokens(task, example, epoch)]
        for example, end in zip(poems, ends, strict=True)
        for epoch in range(epochs)
    )
    assert sorted(drawn) == list(range(13))
    expected = len(poems) * epochs / 13
    chi_squared = sum((count - expected) ** 2 / expected for count in drawn.values())
    assert chi_squared < 33  # 12 degrees of freedom: 1 in 1,000 fair draws is above


def test_what_is_given_is_drawn_from_seed_epoch_and_poem(make: Make, poems: list[Example]) -> None:
    def draws(seed: int) -> list[list[int]]:
        return [[given_tokens(make(seed), example, epoch) for epoch in range(12)] for example in poems]

    first = draws(1)
    assert draws(1) == first
    assert draws(2) != first
    lines = [[1, *example.breaks].index(at) for example, row in zip(poems, first, strict=True) for at in row]
    rows = [tuple(lines[i : i + 12]) for i in range(0, len(lines), 12)]
    assert len(set(rows)) == len(poems)
    assert all(len(set(row)) > 3 for row in rows)


def test_short_poems_keep_a_line_to_learn(make: Make, tmp_path: Path) -> None:
    task = make()
    one, two = read(task, tmp_path, "a single line", poem("first", "second"))
    assert {given_tokens(task, one, epoch) for epoch in range(20)} == {1}
    assert {given_tokens(task, two, epoch) for epoch in range(20)} == {1, two.breaks[0]}


# --- loss and perplexity --------------------------------------------------------------------------


@torch.no_grad()
def their_losses(model: GPT2, ids: Sequence[int]) -> Tensor:
    """The loss of every token but the first, from the logits of transformers."""
    theirs = GPT2LMHeadModel(GPT2Config(**vars(model.shape))).eval()
    theirs.transformer.load_state_dict(model.state_dict())
    tokens = torch.tensor(ids)
    return F.cross_entropy(theirs(tokens[None]).logits[0, :-1], tokens[1:], reduction="none")


def test_the_loss_is_the_cross_entropy_after_the_given_lines(
    make: Make, model: GPT2, poems: list[Example]
) -> None:
    task, batch = make(), make().collate(poems[:3], 5)
    expected = sum(
        float(their_losses(model, example.ids)[given_tokens(task, example, 5) - 1 :].sum())
        for example in poems[:3]
    )
    assert float(task.loss(model, batch).detach()) == pytest.approx(expected, rel=1e-5)


def direct_perplexities(model: GPT2, poems: Sequence[Example], shift: int = 0) -> dict[str, float]:
    """Perplexities as their definition has them; a shift plants a bug."""
    losses = [their_losses(model, example.ids) for example in poems]
    tails = {
        given: torch.cat(
            [loss[p.breaks[given - 1] - 1 + shift :] for p, loss in zip(poems, losses, strict=True)]
        )
        for given in GIVEN_LINES
    }
    named = {f"perplexity_given_{given}": float(tail.mean().exp()) for given, tail in tails.items()}
    return {"perplexity": float(torch.cat([*tails.values()]).mean().exp())} | named


def test_perplexities_are_those_of_the_continuations(make: Make, model: GPT2, poems: list[Example]) -> None:
    scores = make().evaluate(model, poems, [], 3).scores
    assert scores is not None
    found = {name: value for name, value in scores.items() if name.startswith("perplexity")}
    assert found == pytest.approx(direct_perplexities(model, poems), rel=1e-5)
    assert make().dev_score(model, poems, 5).value == pytest.approx(found["perplexity"], rel=1e-6)
    for shift in (-1, 1):
        assert found != pytest.approx(direct_perplexities(model, poems, shift), rel=1e-5)


def test_a_poem_counts_where_lines_are_left(make: Make, model: GPT2, tmp_path: Path) -> None:
    task = make()
    short, long = read(task, tmp_path, poem(*"abcd"), poem(*"abcdefgh"))
    scores = task.evaluate(model, [short, long], [], 2).scores
    assert scores is not None
    assert [name for name in scores if name.startswith("perplexity")] == [
        "perplexity",
        *(f"perplexity_given_{given}" for given in (1, 3, 6)),
    ]
    losses = their_losses(model, long.ids)[long.breaks[5] - 1 :]
    assert scores["perplexity_given_6"] == pytest.approx(float(losses.mean().exp()), rel=1e-5)


# --- continuations --------------------------------------------------------------------------------


def test_a_continuation_has_the_missing_lines_and_ends(
    make: Make, tokenizer: Tokenizer, poems: list[Example]
) -> None:
    wordy = saying(tokenizer, {" the": 3.0, "e": 2.0, "\n": 2.2})
    found = make().evaluate(wordy, poems, [], 3)
    for item, example in zip(found.predictions, poems, strict=True):
        assert item["prompt"] == poem(*text_of(example).split("\n")[:3]) + "\n"
        assert item["greedy"] == " the" * 256  # it never breaks a line, and stops at the most tokens
        assert len(item["sampled"].split("\n")) <= 11
        assert item["sampled"].count("\n") > 4
    ending = make().evaluate(saying(tokenizer, {"\n": 3.0, "e": 0.0}), poems, [], 3)
    assert {item["greedy"] for item in ending.predictions} == {""}


def test_sampled_continuations_depend_on_the_seed(
    make: Make, tokenizer: Tokenizer, poems: list[Example]
) -> None:
    model = saying(tokenizer, {"e": 1.0, " the": 1.0, "a": 1.0, "\n": 1.0})

    def sampled(seed: int) -> list[str]:
        return [item["sampled"] for item in make(seed).evaluate(model, poems[:3], [], 2).predictions]

    assert sampled(1) == sampled(1)
    assert sampled(1) != sampled(2)
    assert len(set(sampled(1))) == 3


def test_where_only_the_given_lines_are_there_nothing_is_scored(
    make: Make, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    task = make()
    poems = read(task, tmp_path, poem("one,", "two,", "three,"), poem("four"))
    evaluation = task.evaluate(saying(tokenizer, {"e": 1.0, "\n": 0.9}), poems, [], 2)
    assert (evaluation.examples, evaluation.scores, evaluation.floors) == (2, None, {})
    assert [item["prompt"] for item in evaluation.predictions] == ["one,\ntwo,\nthree,\n", "four\n"]
    assert all(item["greedy"] and item["sampled"] for item in evaluation.predictions)
    assert len(evaluation.predictions[1]["sampled"].split("\n")) <= 13


def test_last_linear_is_refused_with_the_reason() -> None:
    with pytest.raises(UsageError, match="tied language-model head"):
        resolve("sonnet", {"method": "last-linear"})


# --- trivial answers ---------------------------------------------------------------------------------------


def test_the_best_trivial_text_is_the_tail_of_training_poems(
    make: Make, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """With one training poem, the floor is the score of its tail as the continuation of every poem."""
    from sacrebleu.metrics.chrf import CHRF

    task, model = make(), saying(tokenizer, {"\n": 0.0})
    lines = ["the lamp", "is lit", "at six", "and burns", "all night", "until the day"]
    (training,) = read(task, tmp_path, poem(*"xyz", *lines))
    dev = read(task, tmp_path, poem(*"abc", *lines), poem(*"def", "other inputs"))
    evaluation = task.evaluate(model, dev, [training], 2)
    floors, answers = evaluation.floors, evaluation.trivial_answers
    assert answers["chrf_greedy"] == answers["course_chrf_sampled"] == "another poem's end"
    tail, references = poem(*lines), [poem(*lines), "other inputs"]
    assert floors["chrf_greedy"] == pytest.approx(CHRF().corpus_score([tail, tail], [references]).score)
    assert floors["course_chrf_sampled"] == pytest.approx(
        CHRF()
        .corpus_score(
            [f"a\nb\nc\n{tail}", f"d\ne\nf\n{tail}"],
            [[f"a\nb\nc\n{references[0]}", f"d\ne\nf\n{references[1]}"]],
        )
        .score
    )
    assert answers["perplexity"] == answers["perplexity_given_3"] == "unigram frequencies"
    assert 1 < floors["perplexity"] < SHAPE.vocab_size


def test_repeating_the_given_lines_fills_the_poem(make: Make, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A poem that repeats itself gets the best possible score from that trivial answer."""
    task, model = make(), saying(tokenizer, {"\n": 0.0})
    refrain = ["of a lamp,", "of a light,", "of a long and a dark night"]
    dev = read(task, tmp_path, poem(*(refrain * 5)[:14]))
    evaluation = task.evaluate(model, dev, read(task, tmp_path, poem(*"abcdefgh")), 2)
    assert evaluation.trivial_answers["bleu_greedy"] == "given lines again"
    assert evaluation.floors["bleu_greedy"] == pytest.approx(100)
    assert evaluation.floors["course_chrf_sampled"] == pytest.approx(100)


def test_without_training_poems_such_answers_are_left_out(
    make: Make, model: GPT2, poems: list[Example], tmp_path: Path
) -> None:
    without_tails = read(make(), tmp_path, poem("only", "three", "lines"))
    for train in ([], without_tails):
        evaluation = make().evaluate(model, poems[:2], train, 2)
        assert evaluation.scores is not None
        assert evaluation.trivial_answers["chrf_greedy"] == "given lines again"
    assert make().evaluate(model, poems[:2], [], 2).floors["perplexity"] == pytest.approx(SHAPE.vocab_size)


@pytest.fixture
def real(make: Make, tokenizer: Tokenizer, real_data: Path) -> Evaluation:
    """The course's dev sonnets and a model that writes nothing but line breaks."""
    task, config = make(), DataConfig(data=str(real_data / "sonnets"))
    train, dev = task.load(config, "train").examples, task.load(config, "dev").examples
    assert (len(train), len(dev)) == (131, 12)
    return task.evaluate(saying(tokenizer, {"\n": 0.0}), dev, train, 12)


@pytest.mark.data
def test_the_floors_of_the_real_dev_set_are_the_published_ones(real: Evaluation) -> None:
    """41.43 for a random training tail, 24.77 for the prompt alone, 26.08 for the tail on its own."""
    assert real.floors["course_chrf_greedy"] == pytest.approx(41.43, abs=0.3)
    assert real.floors["chrf_greedy"] == pytest.approx(26.08, abs=0.3)
    assert real.scores is not None
    assert real.scores["course_chrf_greedy"] == pytest.approx(24.77, abs=0.02)
    assert real.scores["chrf_greedy"] == 0
    assert math.isfinite(real.scores["perplexity"])


@pytest.mark.data
def test_a_prompt_begins_as_real_poems_do(make: Make, real_data: Path) -> None:
    """With GPT-2's own tokenizer too: no token spans a line's end."""
    gpt2 = load_tokenizer(real_data / "gpt2-tokenizer")
    task = Sonnet(dataclasses.replace(make().context, tokenizer=gpt2))
    examples = task.load(DataConfig(data=str(real_data / "sonnets")), "train").examples
    assert max(len(example.ids) for example in examples) < 256
    for example in examples:
        lines = text_of(example).split("\n")
        assert task.prompt(poem(*lines[:3]) + "\n", 0).ids == example.ids[: example.breaks[2]]
