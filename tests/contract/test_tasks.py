"""The laws of every task, over the registry itself, with every method that the task allows."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from explora.core.config.concerns import DataConfig
from explora.core.config.precedence import resolve
from explora.core.config.registry import METHODS, TASKS, method_class, task_row
from explora.core.config.run_config import settings_of
from explora.core.data.splits import find_split, read_table
from explora.core.model.gpt2 import GPT2
from explora.core.runs.assemble import Session, assemble_for_training
from explora.core.tasks.contract import Batch, Evaluation, Example, Split, find_places
from explora.errors import UsageError
from tests.tiny_models import PAIRS

pytestmark = pytest.mark.usefixtures("short_poems")

BATCH = 5
FEW = 3  # examples to evaluate, since poems are generated one token a time
SAMPLES = DataConfig()
LABELLED = [name for name, row in TASKS.items() if row.label]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A task with a model at step 0, and the package's samples."""

    session: Session
    train: Split
    dev: Split


def prepare(base: Path, task: str, method: str) -> Prepared:
    options = {"model": str(base), "method": method, "rank": 2} if method == "lora" else {"method": method}
    run, _ = resolve(task, {"model": str(base), "device": "cpu", "amp": "off", **options})
    session, train, dev = assemble_for_training(run)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in session.model.named_parameters():
            if name.endswith("lora_B") or name == "score.weight":  # so that they count
                value.normal_(0, 0.3, generator=generator)
    session.model.eval()
    return Prepared(session=session, train=train, dev=dev)


@pytest.fixture(scope="module", params=PAIRS, ids="-".join)
def prepared(request: pytest.FixtureRequest, tiny_base: Path) -> Iterator[Prepared]:
    yield prepare(tiny_base, *request.param)


@pytest.fixture(scope="module", params=TASKS)
def adapted(request: pytest.FixtureRequest, tiny_base: Path) -> Iterator[Prepared]:
    """Each task once, with the default method."""
    yield prepare(tiny_base, request.param, "lora")


def uneven(examples: Sequence[Example]) -> list[Example]:
    """A few examples of different lengths: padding is only seen where there is some."""
    found = [examples[i] for i in range(BATCH)]
    if len({len(example.ids) for example in found}) == BATCH:
        return found
    return [shortened(example, len(example.ids) - 7 * i) for i, example in enumerate(found)]


def shortened(example: Example, length: int) -> Example:
    breaks = tuple(at for at in example.breaks if at <= length)
    return dataclasses.replace(example, ids=example.ids[:length], breaks=breaks)


def trainable(model: GPT2) -> list[Tensor]:
    return [value for value in model.parameters() if value.requires_grad]


# --- examples and batches -------------------------------------------------------------------------


def test_the_samples_load_completely(prepared: Prepared) -> None:
    session = prepared.session
    for split in (prepared.train, prepared.dev):
        assert len(split.examples) >= 5
        assert not split.skipped
        for i in range(len(split.examples)):
            example = split.examples[i]
            assert 1 <= len(example.ids) <= session.model.shape.n_positions
            assert all(0 <= token < session.model.shape.vocab_size for token in example.ids)
            assert Path(example.row.file).is_file()
            assert (example.label is None) == (TASKS[session.task_name].label is None)
            assert example.label is None or example.label in range(len(session.task.labels))


def test_a_setting_shortens_the_examples(tiny_base: Path, adapted: Prepared) -> None:
    before = [len(adapted.train.examples[i].ids) for i in range(len(adapted.train.examples))]
    longest = max(before) - 12
    settings = {"model": str(tiny_base), "device": "cpu", "amp": "off", "max_length": longest}
    _, train, _ = assemble_for_training(resolve(adapted.session.task_name, settings)[0])
    lengths = [len(train.examples[i].ids) for i in range(len(train.examples))]
    assert longest - 4 <= max(lengths) <= longest
    if len(lengths) == len(before):  # plain text is cut into more rows instead
        assert all(min(a, longest) - 4 <= b <= min(a, longest) for a, b in zip(before, lengths, strict=True))


def test_a_file_and_standard_input_give_the_same_examples(
    adapted: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = adapted.session.task
    file = Path(find_split(adapted.session.task_name, SAMPLES, "dev").file)
    from_file = task.read(str(file), SAMPLES).examples
    stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(file.read_bytes())))
    monkeypatch.setattr(sys, "stdin", stdin)
    from_stdin = task.read("-", DataConfig(data="-")).examples
    assert [list(example.ids) for example in from_stdin] == [list(example.ids) for example in from_file]
    assert [example.label for example in from_stdin] == [example.label for example in from_file]


def test_a_batch_is_what_its_docstring_says(prepared: Prepared) -> None:
    session, examples = prepared.session, uneven(prepared.train.examples)
    batch = session.task.collate(examples, 0)
    lengths = [len(example.ids) for example in examples]
    assert len(set(lengths)) == BATCH
    assert batch.input_ids.shape == (BATCH, max(lengths))
    for ids, example in zip(batch.input_ids.tolist(), examples, strict=True):
        assert ids == [*example.ids, *[session.tokenizer.eos] * (max(lengths) - len(example.ids))]
    assert batch.positions.tolist() == [length - 1 for length in lengths]
    assert batch.tokens == sum(lengths)
    assert batch.weight == int((batch.targets >= 0).sum()) > 0
    if batch.targets.dim() == 1:
        assert batch.targets.tolist() == [example.label for example in examples]
        assert batch.places is None
        return
    hidden = torch.arange(batch.targets.numel()).view_as(batch.targets).unsqueeze(-1)
    states, tokens = batch.predicted(hidden)
    assert torch.equal(tokens, batch.targets[batch.targets >= 0])
    assert torch.equal(states, hidden[batch.targets >= 0])
    following = torch.nn.functional.pad(batch.input_ids[:, 1:], (0, 1), value=-1)
    asked = batch.targets >= 0
    assert torch.equal(batch.targets[asked], following[asked])
    assert set(batch.targets[~asked].tolist()) == {-100}
    places = torch.arange(max(lengths)).expand_as(asked)
    assert bool((places < batch.positions[:, None])[asked].all())


def test_a_row_of_a_batch_depends_on_epoch_and_row_alone(prepared: Prepared) -> None:
    task, examples = prepared.session.task, uneven(prepared.train.examples)
    batch = task.collate(examples, 4)
    for i, example in enumerate(examples):
        alone = task.collate([example], 4)
        length = len(example.ids)
        assert torch.equal(batch.input_ids[i, :length], alone.input_ids[0])
        whole = batch.targets[i] if batch.targets.dim() == 1 else batch.targets[i, :length]
        assert torch.equal(whole, alone.targets[0])


def test_training_does_not_depend_on_where_the_data_is(adapted: Prepared) -> None:
    """The same files in another folder give the same batches: a run can be repeated elsewhere."""
    task, examples = adapted.session.task, uneven(adapted.train.examples)
    moved = [
        dataclasses.replace(example, row=dataclasses.replace(example.row, file="/elsewhere/train"))
        for example in examples
    ]
    for epoch in range(3):
        here, there = task.collate(examples, epoch), task.collate(moved, epoch)
        assert torch.equal(here.targets, there.targets)


# --- loss -----------------------------------------------------------------------------------------


def loss_and_gradients(model: GPT2, prepared: Prepared, batches: Sequence[Batch]) -> tuple[float, Tensor]:
    model.zero_grad()
    total = torch.zeros(())
    for batch in batches:
        loss = prepared.session.task.loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    gradients = [value.grad for value in trainable(model) if value.grad is not None]
    return float(total), torch.cat([gradient.flatten() for gradient in gradients])


def test_a_batch_gives_the_loss_and_gradients_of_its_rows_one_by_one(prepared: Prepared) -> None:
    session, examples = prepared.session, uneven(prepared.train.examples)
    together = loss_and_gradients(session.model, prepared, [session.task.collate(examples, 1)])
    alone = [session.task.collate([example], 1) for example in examples]
    apart = loss_and_gradients(session.model, prepared, alone)
    assert together[0] == pytest.approx(apart[0], rel=1e-5)
    torch.testing.assert_close(together[1], apart[1], rtol=1e-4, atol=1e-5 * float(apart[1].abs().max()))
    assert sum(batch.weight for batch in alone) == session.task.collate(examples, 1).weight


def test_a_loss_that_looks_at_padding_is_found(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin of the law above: every row read up to the batch's width."""
    session, examples = prepared.session, uneven(prepared.train.examples)
    collate = session.task.collate

    def careless(rows: Sequence[Example], epoch: int) -> Batch:
        batch = collate(rows, epoch)
        width = batch.input_ids.shape[1]
        targets = batch.targets
        if targets.dim() == 2:
            following = torch.nn.functional.pad(batch.input_ids[:, 1:], (0, 1), value=-100)
            targets = torch.where(targets >= 0, targets, following)
        return dataclasses.replace(
            batch,
            positions=torch.full_like(batch.positions, width - 1),
            targets=targets,
            places=find_places(targets) if targets.dim() == 2 else None,
        )

    monkeypatch.setattr(session.task, "collate", careless)
    together, _ = loss_and_gradients(session.model, prepared, [careless(examples, 1)])
    apart, _ = loss_and_gradients(session.model, prepared, [careless([item], 1) for item in examples])
    assert together != pytest.approx(apart, rel=1e-4)


def test_a_small_step_lowers_the_loss_as_much_as_the_gradient_says(prepared: Prepared) -> None:
    """A step of -r g lowers the loss by r |g|^2: here a thousandth of it, whatever a method can reach."""
    session = prepared.session
    before = {name: value.clone() for name, value in session.model.state_dict().items()}
    batch = session.task.collate([prepared.train.examples[i] for i in range(8)], 0)
    first, gradient = loss_and_gradients(session.model, prepared, [batch])
    expected = 1e-3 * first
    rate = expected / float(gradient.square().sum())
    with torch.no_grad():
        for value in trainable(session.model):
            assert value.grad is not None
            value -= rate * value.grad
        second = float(session.task.loss(session.model, batch))
    session.model.load_state_dict(before)
    assert first - second == pytest.approx(expected, rel=0.1)


# --- evaluation -----------------------------------------------------------------------------------


def evaluate(prepared: Prepared, examples: Sequence[Example], batch_size: int) -> Evaluation:
    session = prepared.session
    return session.task.evaluate(session.model, examples, prepared.train.examples, batch_size)


@pytest.fixture(scope="module")
def evaluated(adapted: Prepared) -> Evaluation:
    """A few dev examples in batches of two."""
    return evaluate(adapted, adapted.dev.examples[:FEW], 2)


def test_every_score_has_an_interval_a_direction_and_a_trivial_answer(evaluated: Evaluation) -> None:
    assert evaluated.examples == FEW
    assert evaluated.scores is not None
    assert list(evaluated.scores) == list(evaluated.intervals)
    assert set(evaluated.scores) == set(evaluated.floors) == set(evaluated.trivial_answers)
    assert set(evaluated.scores) == set(evaluated.higher_is_better)
    of_examples = {name: score.value for name, score in evaluated.statistics.items()}
    assert of_examples == pytest.approx(evaluated.scores)
    for name, value in evaluated.scores.items():
        low, high = evaluated.intervals[name]
        assert math.isfinite(value)
        assert low <= high or (math.isnan(low) and math.isnan(high))  # unknown where all examples are alike
        assert math.isfinite(evaluated.floors[name])


def test_the_dev_score_is_the_metric_of_the_evaluation(adapted: Prepared, evaluated: Evaluation) -> None:
    session = adapted.session
    assert evaluated.scores is not None
    score = session.task.dev_score(session.model, adapted.dev.examples[:FEW], 3)
    assert score.value == pytest.approx(evaluated.scores[session.task.metric], rel=1e-6)


def test_a_better_model_has_the_better_dev_score(adapted: Prepared) -> None:
    """`higher_is_better` points the right way."""
    session = adapted.session
    before = {name: value.clone() for name, value in session.model.state_dict().items()}
    examples = [adapted.train.examples[i] for i in range(16)]
    start = session.task.dev_score(session.model, examples, 8).value
    optimizer = torch.optim.Adam(trainable(session.model), lr=2e-2)
    for epoch in range(12):
        optimizer.zero_grad()
        session.task.loss(session.model, session.task.collate(examples, epoch)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    end = session.task.dev_score(session.model, examples, 8).value
    session.model.load_state_dict(before)
    assert (end > start) if session.task.higher_is_better else (end < start)
    evaluation = evaluate(adapted, adapted.dev.examples[:FEW], 2)
    assert evaluation.higher_is_better[session.task.metric] == session.task.higher_is_better


@pytest.mark.parametrize("batch_size", [1, 64])
def test_evaluation_does_not_depend_on_the_batch_size(
    adapted: Prepared, evaluated: Evaluation, batch_size: int
) -> None:
    found = evaluate(adapted, adapted.dev.examples[:FEW], batch_size)
    assert found.scores == pytest.approx(evaluated.scores, rel=1e-5)
    assert found.floors == evaluated.floors
    assert [*map(without_floats, found.predictions)] == [*map(without_floats, evaluated.predictions)]


def test_evaluation_does_not_depend_on_the_order_of_the_rows(
    adapted: Prepared, evaluated: Evaluation
) -> None:
    examples = [adapted.dev.examples[i] for i in range(FEW)]
    found = evaluate(adapted, examples[::-1], 2)
    assert found.scores == pytest.approx(evaluated.scores, rel=1e-5)
    assert [*map(without_floats, found.predictions)] == [*map(without_floats, evaluated.predictions)][::-1]
    if evaluated.predictions:  # plain text has none
        assert [item["id"] for item in evaluated.predictions] == [example.row.id for example in examples]


def without_floats(prediction: object) -> dict[str, object]:
    assert isinstance(prediction, dict)
    return {name: value for name, value in prediction.items() if not isinstance(value, float)}


@pytest.mark.parametrize("name", LABELLED)
def test_rows_without_labels_get_predictions_and_no_scores(
    tiny_base: Path, tmp_path: Path, name: str
) -> None:
    prepared = prepare(tiny_base, name, "lora")
    file = tmp_path / "rows.jsonl"
    rows = [dict.fromkeys(TASKS[name].columns, f"number {i}") for i in range(3)]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    examples = prepared.session.task.read(str(file), SAMPLES).examples
    evaluation = evaluate(prepared, examples, 2)
    assert (evaluation.scores, evaluation.intervals, evaluation.floors) == (None, {}, {})
    assert [item["prediction"] in prepared.session.task.labels for item in evaluation.predictions] == [
        True
    ] * 3
    assert not any("label" in item for item in evaluation.predictions)


def test_predictions_are_lines_of_a_file_or_refused(adapted: Prepared, evaluated: Evaluation) -> None:
    task = adapted.session.task
    if not evaluated.predictions:
        with pytest.raises(UsageError, match="no predictions"):
            task.prediction_lines(evaluated.predictions)
        return
    text = "\n".join(task.prediction_lines(evaluated.predictions))
    assert all(str(item["id"]) in text for item in evaluated.predictions)


# --- prompts --------------------------------------------------------------------------------------


def test_a_prompt_is_the_text_and_its_seed(adapted: Prepared) -> None:
    session = adapted.session
    prompt = session.task.prompt("The lamp\nand the oil\n", 7)
    ids = [token for token in prompt.ids if token != session.tokenizer.eos]
    assert session.tokenizer.decode(ids) == "The lamp\nand the oil\n"
    assert prompt.seed == 7


def test_the_rows_of_a_file_are_prompts_or_refused(adapted: Prepared) -> None:
    name, task = adapted.session.task_name, adapted.session.task
    file = find_split(name, SAMPLES, "dev").file
    if TASKS[name].one_position:
        with pytest.raises(UsageError, match=f"{name} takes --prompt"):
            task.prompts(file)
        return
    rows = read_table(file, name, SAMPLES).rows
    found = list(task.prompts(file))
    assert [row for row, _ in found] == rows
    assert all(row.values["text"].startswith(text.rstrip("\n")) for row, text in found)


# --- the registry ---------------------------------------------------------------------------------


def test_a_head_has_as_many_classes_as_the_task_says(prepared: Prepared) -> None:
    session = prepared.session
    assert session.task.head_classes() == (
        None if session.model.score is None else session.model.score.out_features
    )


def test_what_the_row_says_without_torch_is_what_the_task_does(prepared: Prepared) -> None:
    session = prepared.session
    task, row = session.task, TASKS[session.task_name]
    needs_head = session.method.needs_head
    assert row.head_classes(needs_head, len(task.labels)) == (task.head_classes() or 0)
    assert row.classes in (None, len(task.labels))
    assert row.one_position == (task.collate(uneven(prepared.train.examples), 0).targets.dim() == 1)
    assert not (row.own_head and task.candidates)
    assert task.candidates is None or len(task.candidates) == len(task.labels)


def test_a_task_that_is_not_registered_is_an_error() -> None:
    for ask in (task_row, lambda name: resolve(name, {})):
        with pytest.raises(UsageError, match="no task 'sentimant'; did you mean sentiment"):
            ask("sentimant")


@pytest.mark.parametrize("name", TASKS)
def test_a_method_that_needs_a_head_is_refused_with_the_reason_or_accepted(name: str) -> None:
    for method in METHODS:
        reason = TASKS[name].refuses(method_class(method))
        if not reason:
            assert resolve(name, {"method": method})[0].task == name
            continue
        assert len(reason.split()) > 5
        with pytest.raises(UsageError) as refusal:
            resolve(name, {"method": method})
        assert reason in refusal.value.message


@pytest.mark.parametrize("name", TASKS)
def test_every_default_is_a_setting(name: str) -> None:
    assert set(TASKS[name].defaults) <= set(settings_of(resolve(name, {})[0]))
