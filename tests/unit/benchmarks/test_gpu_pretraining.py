"""benchmarks/gpu, the training: schedule, rows, losses, phases, resuming. Each oracle has a planted bug."""

from __future__ import annotations

import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
sys.path += [str(BENCHMARKS / "gpu"), str(BENCHMARKS / "pretrain")]

import compile_blocks  # noqa: E402
import draw_batches  # noqa: E402
import pretrain  # noqa: E402
import train_phases  # noqa: E402
from draw_rows import AnsweredRows, PairRows, TextRows  # noqa: E402
from fit_schedule import Schedule  # noqa: E402
from measure_bits import bits_per_byte  # noqa: E402
from pack_corpus import FILES, Encoder  # noqa: E402
from pack_tokens import write_ids, write_manifest  # noqa: E402
from weigh_answers import ANSWER_WEIGHT, answer_loss, language_loss, margin_of  # noqa: E402

from explora.core.base.find import base_tokenizer, open_base  # noqa: E402
from explora.core.config.concerns import DataConfig, EncodingConfig  # noqa: E402
from explora.core.config.registry import Shape  # noqa: E402
from explora.core.model import gpt2  # noqa: E402
from explora.core.model.cross_entropy import tied_cross_entropy  # noqa: E402
from explora.core.tasks.contract import TaskContext  # noqa: E402
from explora.core.tasks.text import Text  # noqa: E402

CPU = torch.device("cpu")
TINY = pretrain.Size(
    shape=Shape(n_layer=2, n_head=2, n_embd=32, n_positions=32, vocab_size=8192),
    batches={"rows": 4, "length": 32, "pairs": 4, "pair_length": 32},
    warmup=2,
    measured_every=4,
)
STEPS = 24


# The schedule


def follow(schedule: Schedule, seconds_of: Callable[[int], float]) -> tuple[int, float, list[float]]:
    """Take all steps of a schedule on a fake clock; return their number, their seconds and the factors."""
    step, seconds, factors = 0, 0.0, []
    while not schedule.is_done(step):
        factors.append(schedule.factor(step))
        seconds += seconds_of(step)
        step += 1
        if step % train_phases.SYNCHRONISED_EVERY == 0:
            schedule.observe(step, seconds)
    return step, seconds, factors


def compiling(step: int) -> float:
    return 30.0 if step == 0 else 0.05


@pytest.mark.parametrize("decay", [0.0, 0.3, 1.0])
def test_the_steps_end_with_the_time(decay: float) -> None:
    steps, seconds, factors = follow(Schedule(100.0, warmup=10, decay=decay), compiling)
    assert abs(seconds - 100.0) <= 0.05 * train_phases.SYNCHRONISED_EVERY
    assert factors[:2] == [0.1, 0.2]
    assert factors[10] == 1.0
    assert len(factors) == steps
    if decay:
        assert 0 < factors[-1] < 1.5 / (decay * steps)
    else:
        assert set(factors[10:]) == {1.0}


def test_the_decay_begins_at_its_share() -> None:
    steps, _, factors = follow(Schedule(100.0, decay=0.3), lambda step: 0.05)
    assert abs(factors.index(next(f for f in factors if f < 1)) - 0.7 * steps) <= 11


def test_a_machine_that_slows_down_gets_fewer_steps() -> None:
    steady, _, _ = follow(Schedule(100.0, decay=0.2), lambda step: 0.05)
    slow, seconds, factors = follow(Schedule(100.0, decay=0.2), lambda step: 0.05 if step < 500 else 0.1)
    assert slow < steady
    assert factors[-1] < 0.01
    assert seconds < 115


def test_a_known_pace_is_enough_for_a_short_phase() -> None:
    def second(step: int) -> float:
        return 1.0

    _, known, factors = follow(Schedule(12.0, decay=1.0, seconds_per_step=1.0), second)
    assert known == 12.0
    assert factors[-1] == 0.5  # the decay of two steps that were left when the clock was read
    _, unknown, _ = follow(Schedule(12.0, decay=1.0), second)
    assert unknown == 20.0


def test_given_steps_look_at_no_clock() -> None:
    schedule = Schedule.of_steps(10, decay=0.5)
    schedule.observe(5, 1e9)
    steps, _, factors = follow(schedule, lambda step: 1e9)
    assert steps == 10
    assert factors == [1.0] * 5 + [1.0, 0.8, 0.6, 0.4, 0.2]


# Rows


def test_rows_of_text_stay_in_their_segment_and_differ_within_an_epoch() -> None:
    segments = [(np.arange(0, 500, dtype=np.uint16), 1), (np.arange(1000, 1200, dtype=np.uint16), 2)]
    rows = TextRows(segments, 16, 5, seed=1, device=CPU)
    drawn = torch.cat([rows.batch(number) for number in range(rows.shuffled.batches)])
    assert torch.equal(drawn - drawn[:, :1], torch.arange(17).expand(len(drawn), -1))  # consecutive
    firsts = drawn[:, 0].tolist()
    once = [first for first in firsts if first < 500]
    twice = [first for first in firsts if first >= 1000]
    assert len(once) == len(set(once))
    assert len(twice) > 1.5 * len(set(twice))


def test_each_epoch_cuts_the_text_elsewhere() -> None:
    rows = TextRows([(np.arange(500, dtype=np.uint16), 1)], 16, 5, seed=1, device=CPU)
    count = rows.shuffled.batches
    offsets = [{int(first) % 16 for first in rows.batch(epoch * count)[:, 0]} for epoch in range(16)]
    assert all(len(offset) == 1 for offset in offsets)
    assert len(set.union(*offsets)) == 16


def test_a_batch_depends_on_its_number_alone() -> None:
    def fresh() -> TextRows:
        return TextRows([(np.arange(500, dtype=np.uint16), 1)], 16, 5, seed=1, device=CPU)

    used = fresh()
    for number in range(20):
        used.batch(number)
    assert torch.equal(used.batch(13), fresh().batch(13))
    other = TextRows([(np.arange(500, dtype=np.uint16), 1)], 16, 5, seed=2, device=CPU)
    assert not torch.equal(other.batch(13), fresh().batch(13))


def test_answered_rows_begin_at_documents() -> None:
    end = 9
    ids = np.array([1, 2, 3, end, 4, 5, end] * 20, dtype=np.uint16)
    rows = AnsweredRows(ids, end, 10, 2, seed=1, device=CPU)
    drawn = torch.cat([rows.batch(number) for number in range(rows.shuffled.batches)])
    assert set(drawn[:, 0].tolist()) <= {1, 4}


def test_a_pair_does_not_show_its_answer() -> None:
    end = 9
    documents = [[1, 2, 3, 7], [4, 5, 8], [1] * 30 + [8], [6, 6, 6, 6, 7]]
    ids = np.array([token for d in documents for token in (*d, end)], dtype=np.uint16)
    rows = PairRows(ids, end, 8, 3, seed=1, device=CPU)  # the third is too long
    prompts, last, answers = rows.batch(0)
    assert sorted(answers.tolist()) == [7, 7, 8]
    assert not ((prompts == 7) | (prompts == 8)).any()
    shown = {tuple(row[: place + 1].tolist()) for row, place in zip(prompts, last, strict=True)}
    assert shown == {(1, 2, 3), (4, 5), (6, 6, 6, 6)}


# Losses


def answered_batch() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    ids = torch.randint(10, 50, (3, 9))
    ids[0, 3:5] = torch.tensor([SPACE, YES])
    ids[2, 7:9] = torch.tensor([SPACE, NO])
    ids[1, 4] = YES  # after another token: no answer
    return torch.randn(3, 8, 16), torch.randn(50, 16), ids


SPACE, NO, YES = 1, 2, 3


def test_the_loss_is_that_of_the_shipped_bases_pretext() -> None:
    hidden, weight, ids = answered_batch()
    found = language_loss(hidden, weight, ids, SPACE, NO, YES)
    language = tied_cross_entropy(hidden.flatten(0, 1), weight, ids[:, 1:].flatten())
    places = hidden[[0, 2], [3, 7]] @ weight[[NO, YES]].t()
    answers = F.cross_entropy(places, torch.tensor([1, 0]), reduction="sum")
    expected = (language + ANSWER_WEIGHT * answers) / 24
    torch.testing.assert_close(found, expected)
    assert not torch.isclose(found, language / 24)  # planted: answers forgotten
    late = language_loss(hidden, weight, ids.roll(1, 1), SPACE, NO, YES)  # planted: targets one place off
    assert not torch.isclose(late, expected)


def test_the_loss_of_answers_is_a_cross_entropy_of_two() -> None:
    hidden, weight, _ = answered_batch()
    found = answer_loss(margin_of(hidden[:, 0], weight, NO, YES), torch.tensor([True, False, True]))
    expected = F.cross_entropy(hidden[:, 0] @ weight[[NO, YES]].t(), torch.tensor([1, 0, 1]))
    torch.testing.assert_close(found, expected)


def test_bits_per_byte_are_those_of_eval(tmp_path: Path) -> None:
    tokenizer = base_tokenizer(open_base("embedded"))
    texts = [f"Ship {n} sailed north.\nIt snowed for {n} days." for n in range(40)]
    file = tmp_path / "text.txt"
    file.write_text("\n\n".join(texts) + "\n")
    model = pretrain.new_model(TINY.shape, CPU)
    encoding = EncodingConfig(max_length=32)
    task = Text(
        TaskContext(
            name="text", tokenizer=tokenizer, encoding=encoding, needs_head=False, n_positions=32, seed=1
        )
    )
    split = task.read(str(file), DataConfig(data=str(file)))
    expected = task.evaluate(model, split.examples, [], 8).scores["bits_per_byte"]
    ids, size = Encoder(tokenizer).documents(texts), sum(len(text.encode()) for text in texts)
    assert bits_per_byte(model, ids, size) == pytest.approx(expected, rel=1e-6)
    assert bits_per_byte(model, ids[:-40], size) != pytest.approx(expected, rel=1e-3)


# Compiling


def gradients(model: gpt2.GPT2, run: Callable[[gpt2.GPT2], Tensor]) -> tuple[Tensor, list[Tensor]]:
    loss = run(model)
    loss.backward()
    found = [value.grad.clone() for value in model.parameters() if value.grad is not None]
    model.zero_grad()
    return loss.detach(), found


def next_token_loss(model: gpt2.GPT2) -> Tensor:
    ids = torch.arange(2 * 33).view(2, 33) * 7 % 8192
    return language_loss(model(ids[:, :-1]), model.wte.weight, ids, SPACE, NO, YES)


@pytest.fixture
def own_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore explora's own operations after a test."""
    for name in ("affine", "gelu", "recompute_between"):
        monkeypatch.setattr(gpt2, name, getattr(gpt2, name))


def test_plain_operations_change_neither_loss_nor_gradients(own_operations: None) -> None:
    model = pretrain.new_model(TINY.shape, CPU)
    loss, grads = gradients(model, next_token_loss)
    compile_blocks.use_plain_operations(model)
    plain_loss, plain_grads = gradients(model, next_token_loss)
    torch.testing.assert_close(plain_loss, loss)
    torch.testing.assert_close(plain_grads, grads)


@pytest.mark.filterwarnings("ignore")  # torch's own, while it traces
def test_the_blocks_are_one_graph(own_operations: None) -> None:
    model = pretrain.new_model(TINY.shape, CPU)
    loss, grads = gradients(model, next_token_loss)
    compile_blocks.use_plain_operations(model)
    for block in model.h:
        block.compile(backend="aot_eager", fullgraph=True, dynamic=False)
    traced_loss, traced_grads = gradients(model, next_token_loss)
    torch.testing.assert_close(traced_loss, loss)
    torch.testing.assert_close(traced_grads, grads)


def test_a_wrong_plain_operation_is_found(own_operations: None, monkeypatch: pytest.MonkeyPatch) -> None:
    model = pretrain.new_model(TINY.shape, CPU)
    loss, _ = gradients(model, next_token_loss)
    monkeypatch.setattr(compile_blocks, "_gelu", lambda x: F.relu(x))
    compile_blocks.use_plain_operations(model)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(gradients(model, next_token_loss)[0], loss)


# Phases


def pack(folder: Path) -> None:
    """Pack synthetic segments: text of the lower half of the vocabulary, labelled rows of the upper half."""
    draw = np.random.default_rng(0)
    tokenizer = base_tokenizer(open_base("embedded"))
    labelled = {*draw_batches.ANSWERED, "cloze-dev"}
    segments: dict[str, np.ndarray] = {}
    (space,), (no,), (yes,) = (tokenizer.encode(word) for word in (" ", "no", "yes"))
    for name in (name for names in FILES.values() for name in names):
        if name not in labelled:
            segments[name] = draw.integers(300, 4000, 400, dtype=np.uint16)
            continue
        rows = [
            [*draw.integers(4000, 8000, 12), space, (no, yes)[answer], tokenizer.eos]
            for answer in draw.integers(0, 2, 60)
        ]
        segments[name] = np.concatenate(rows).astype(np.uint16)
    files = [write_ids(folder, file, {n: segments[n] for n in names}) for file, names in FILES.items()]
    facts = {
        "tokenizer": tokenizer.digest,
        "text_bytes": {name: 4 * len(ids) for name, ids in segments.items()},
    }
    write_manifest(folder, files, facts)


class Stopped(Exception):
    """Stands for a kill."""


def visit(folder: Path, out: Path) -> pretrain.Pretraining:
    return pretrain.Pretraining(folder, out, out / "state.pt", TINY, CPU)


def stop_after(training: pretrain.Pretraining, reports: int) -> None:
    """Let a visit stop, as by a kill, right after so many reports of steps; it saves at each of them."""
    report, seen = training.report, 0

    def stopping(**facts: Any) -> None:
        nonlocal seen
        report(**facts)
        if "loss" not in facts:
            return
        training.training.save()
        seen += 1
        if seen == reports:
            raise Stopped

    training.report = stopping  # type: ignore[method-assign]


def tensors(out: Path, name: str) -> dict[str, Tensor]:
    with tarfile.open(out / f"{name}.tar.xz") as archive:
        archive.extractall(out / "unpacked", filter="data")
    return load_file(out / "unpacked" / name / "model.safetensors")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    pack(folder)
    return folder


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    """Synchronise and report every other step, and leave the shipped base out, which takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_phases, "SYNCHRONISED_EVERY", 2)
        patch.setattr(pretrain, "REPORTED_EVERY", 2)
        patch.setattr(pretrain, "shipped_model", lambda device: pretrain.new_model(TINY.shape, device))
        yield


@pytest.fixture(scope="module")
def whole(quick: None, packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    visit(packed, out).run(1e9, STEPS, [])
    return out


@pytest.mark.parametrize("reports", [3, 12])  # within plain and within control
def test_a_resumed_run_ends_with_the_same_bits(
    packed: Path, whole: Path, tmp_path: Path, reports: int
) -> None:
    stopped = visit(packed, tmp_path)
    stop_after(stopped, reports)
    with pytest.raises(Stopped):
        stopped.run(1e9, STEPS, [])
    visit(packed, tmp_path).run(1e9, STEPS, [])
    for name in pretrain.RESULTS:
        expected, found = tensors(whole, name), tensors(tmp_path, name)
        assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_a_run_that_forgets_its_momentum_is_found(
    packed: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = visit(packed, tmp_path)
    stop_after(stopped, 2)
    with pytest.raises(Stopped):
        stopped.run(1e9, STEPS, [])
    monkeypatch.setattr(torch.optim.Muon, "load_state_dict", lambda self, values: None)
    visit(packed, tmp_path).run(1e9, STEPS, [])
    expected, found = tensors(whole, "base"), tensors(tmp_path, "base")
    assert not all(torch.equal(expected[key], found[key]) for key in expected)


def test_a_kill_before_the_archive_loses_nothing(packed: Path, whole: Path, tmp_path: Path) -> None:
    training = visit(packed, tmp_path)
    training.write = lambda name: (_ for _ in ()).throw(Stopped)  # type: ignore[method-assign,assignment]
    with pytest.raises(Stopped):
        training.run(1e9, STEPS, [])
    visit(packed, tmp_path).run(1e9, STEPS, [])
    expected, found = tensors(whole, "base"), tensors(tmp_path, "base")
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_the_bases_differ_and_open(whole: Path) -> None:
    base, control = tensors(whole, "base"), tensors(whole, "control")
    assert not torch.equal(base["transformer.wte.weight"], control["transformer.wte.weight"])
    assert open_base(str(whole / "unpacked" / "base")).shape == TINY.shape


def test_the_control_can_be_left_out(quick: None, packed: Path, tmp_path: Path) -> None:
    visit(packed, tmp_path).run(1e9, STEPS, ["control"])
    assert (tmp_path / "base.tar.xz").exists()
    assert not (tmp_path / "control.tar.xz").exists()


def seen_tokens(packed: Path, tmp_path: Path, name: str) -> set[int]:
    """Return the tokens that a phase reads."""
    training = visit(packed, tmp_path)
    phase = next(p for p in pretrain.make_phases(training.batches, 1) if p.name == name)
    model, seen = training.training.model, set[int]()
    model.wte.register_forward_hook(lambda module, inputs, output: seen.update(inputs[0].flatten().tolist()))
    for number in range(3):
        phase.loss(model, number)
    return seen


@pytest.mark.parametrize("name", ["plain", "control-answers", "control"])
def test_the_control_reads_no_labelled_row(packed: Path, tmp_path: Path, name: str) -> None:
    assert max(seen_tokens(packed, tmp_path, name)) < 4000


@pytest.mark.parametrize("name", ["answers", "cloze", "base"])
def test_the_base_reads_labelled_rows(packed: Path, tmp_path: Path, name: str) -> None:
    assert any(4000 <= token < 8000 for token in seen_tokens(packed, tmp_path, name))


def test_the_control_takes_the_steps_of_the_base(packed: Path, whole: Path) -> None:
    steps = visit(packed, whole).training.progress.steps
    assert (steps["control-answers"], steps["control"]) == (steps["answers"], steps["base"])


def test_training_stops_at_its_deadline(packed: Path, tmp_path: Path) -> None:
    training = visit(packed, tmp_path).training
    clock = iter(range(10_000))
    training.clock = lambda: float(next(clock))
    training.began = 0.0
    phase = train_phases.Phase(
        name="p", share=1.0, loss=lambda model, number: model.wte.weight.sum(), tokens=1
    )
    list(training.run(phase, Schedule.of_steps(1000), deadline=50.0))
    assert 0 < training.progress.steps["p"] <= 50
