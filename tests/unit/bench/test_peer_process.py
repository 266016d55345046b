"""A whole bench: turns, failures, rows that differ; and the comparison with another stack."""

from __future__ import annotations

import random
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from explora.core.bench import plan as matrix
from explora.core.bench import run as running
from explora.core.bench.measurements import WARMUP_STEPS, Contender
from explora.core.bench.peer_reference import export
from explora.core.bench.plan import Plan
from explora.core.bench.run import Bench, CellDone, Result, open_bench
from explora.core.config.registry import TASKS
from explora.core.config.run_config import TrainRun
from explora.errors import TrainingError, UsageError
from tests.cells_here import ask_here, cell, found
from tests.tiny_models import tiny_run


@pytest.fixture
def in_process(monkeypatch):
    monkeypatch.setattr(running, "ask", ask_here)


def plan(*runs: TrainRun, length: int | None = None, **changes: Any) -> Plan:
    contenders = tuple(Contender(run=run, length=length) for run in runs)
    return Plan(**{"contenders": contenders, "repeats": 1, "steps": 2, **changes})


def finish(bench: Bench) -> tuple[list[CellDone], Result]:
    return list(bench.measure()), bench.result()


def test_contenders_take_turns_on_as_many_steps_as_the_first_found_time_for(
    in_process, tiny_base, tiny_data, monkeypatch, tmp_path
):
    monkeypatch.setattr(matrix, "TIMED_SECONDS", 0.3)
    monkeypatch.setattr(matrix, "LEAST_SECONDS", 0.0)
    methods = ("full", "lora", "last-linear")
    runs = [tiny_run(tiny_base, tiny_data, "paraphrase", method=method) for method in methods]
    cells, result = finish(open_bench(plan(*runs, repeats=2, steps=None), tmp_path))
    names = [run.method.label for run in runs]
    assert [each.contender for each in cells] == names + names[::-1]
    assert [each.done for each in cells] == [*range(1, 2 * len(names) + 1)]
    assert len({row.steps for row in result.rows}) == 1
    assert [row.repeats for row in result.rows] == [2] * len(names)


def test_every_contender_runs_once_and_then_time_may_be_up(
    in_process, tiny_base, tiny_data, tmp_path, monkeypatch
):
    for name in ("TIMED_SECONDS", "LEAST_SECONDS", "SECONDS_A_REPEAT", "SECONDS_A_CELL"):
        monkeypatch.setattr(matrix, name, 0.0)
    runs = [tiny_run(tiny_base, tiny_data, "paraphrase", method=method) for method in ("full", "lora")]
    cells, result = finish(open_bench(plan(*runs, repeats=3, steps=None), tmp_path))
    assert [each.contender for each in cells] == ["full", "lora r=8"]
    assert result.verdict[-1] == "Time was up after 2 of 6 cells."
    assert [row.repeats for row in result.rows] == [1, 1]


def test_a_contender_that_failed_is_not_run_again(in_process, tiny_base, tiny_data, monkeypatch, tmp_path):
    asked = []

    def failing(module, request, environment=None):
        asked.append(request["run"]["method"]["method"])
        if asked[-1] == "full":
            raise TrainingError("out of memory")
        return ask_here(module, request)

    monkeypatch.setattr(running, "ask", failing)
    runs = [tiny_run(tiny_base, tiny_data, "paraphrase", method=method) for method in ("full", "lora")]
    cells, result = finish(open_bench(plan(*runs, repeats=3), tmp_path))
    assert asked == ["full", "lora", "lora", "lora"]
    assert [each.is_new for each in cells if each.error] == [True, False, False]
    assert [row.error for row in result.rows] == ["out of memory", None]


def test_nothing_measured_is_an_error(tiny_base, tiny_data, monkeypatch, tmp_path):
    def failing(module, request, environment=None):
        raise TrainingError("out of memory")

    monkeypatch.setattr(running, "ask", failing)
    with pytest.raises(TrainingError, match="no cell could be measured; lora r=8: out of memory"):
        finish(open_bench(plan(tiny_run(tiny_base, tiny_data, "paraphrase")), tmp_path))


def test_other_rows_are_not_comparable(tiny_base, tiny_data, monkeypatch, tmp_path):
    monkeypatch.setattr(
        running, "ask", lambda module, request, environment=None: found(rows=str(random.random())).to_json()
    )
    runs = [tiny_run(tiny_base, tiny_data, "paraphrase", method=method) for method in ("full", "lora")]
    _, result = finish(open_bench(plan(*runs), tmp_path))
    assert "other rows" in str(result.rows[1].error)


def test_what_is_wrong_is_said_before_any_cell(tiny_base, tiny_data, tmp_path):
    with pytest.raises(UsageError, match="at most 192 tokens"):
        open_bench(plan(tiny_run(tiny_base, tiny_data, "paraphrase"), length=193), tmp_path)
    with pytest.raises(UsageError, match="any of these methods"):
        no_peer = tiny_run(tiny_base, tiny_data, "paraphrase", method="last-linear")
        open_bench(plan(no_peer, peer=True), tmp_path)
    with pytest.raises(UsageError, match="sentiment"):
        open_bench(plan(tiny_run(tiny_base, tiny_data, "sentiment"), peer=True), tmp_path)


# What peft 0.21 asks of transformers 5.
OF_PEERS = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@OF_PEERS
@pytest.mark.parametrize("task", [task for task, row in TASKS.items() if not row.own_head])
def test_the_peer_starts_from_the_same_loss(task, in_process, tiny_base, tiny_data, tmp_path):
    _, result = finish(open_bench(plan(tiny_run(tiny_base, tiny_data, task, rank=3), peer=True), tmp_path))
    own, peer = result.rows
    assert peer.error is None
    assert peer.first_loss == pytest.approx(peer.reference_loss, abs=1e-5)
    assert own.first_loss == pytest.approx(peer.reference_loss, abs=1e-5)
    assert peer.stack.startswith("transformers ")
    assert (peer.steps, peer.batch_size) == (own.steps, own.batch_size)


@OF_PEERS
def test_full_fine_tuning_is_compared_with_transformers_alone(in_process, tiny_base, tiny_data, tmp_path):
    run = tiny_run(tiny_base, tiny_data, "paraphrase", method="full")
    _, result = finish(open_bench(plan(run, peer=True), tmp_path))
    own, peer = result.rows
    assert (own.name, peer.name) == ("full", "full (transformers)")
    assert peer.error is None
    assert peer.first_loss == pytest.approx(own.first_loss, abs=1e-5)
    assert peer.trainable == own.trainable
    assert peer.checkpoint_bytes == pytest.approx(own.checkpoint_bytes, rel=0.02)


def test_the_loss_to_start_from_knows_no_dropout(tiny_base, tiny_data):
    runs = [tiny_run(tiny_base, tiny_data, "paraphrase", dropout=dropout) for dropout in (0.0, 0.5)]
    plain, dropped = (export({"cell": cell(run).to_json(), "folder": ""})["loss"] for run in runs)
    assert plain == dropped


@OF_PEERS
def test_another_base_is_not_compared(tiny_base, tiny_data, tmp_path, monkeypatch):
    """The planted bug: the peer trains a base of which one matrix differs."""

    def other_base(module, request, environment=None):
        reply = ask_here(module, request)
        if "base" in reply:
            tensors = load_file(tiny_base / "model.safetensors")
            tensors["transformer.h.0.mlp.c_fc.weight"].neg_()
            folder = tmp_path / "other"
            folder.mkdir()
            save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
            (folder / "config.json").write_bytes((tiny_base / "config.json").read_bytes())
            return {**reply, "base": str(folder)}
        return reply

    monkeypatch.setattr(running, "ask", other_base)
    _, result = finish(open_bench(plan(tiny_run(tiny_base, tiny_data, "paraphrase"), peer=True), tmp_path))
    assert "not compared: its loss on the first batch is" in str(result.rows[1].error)
    assert result.rows[1].tokens_per_second is None


def test_the_peer_reads_the_same_rows_in_random_order(tiny_base, tiny_data):
    from explora.core.bench.peer_process import collate, shuffled

    run = tiny_run(tiny_base, tiny_data, "paraphrase")
    reply = export({"cell": cell(run).to_json(), "folder": ""})
    assert len(reply["batches"]) == WARMUP_STEPS + 3
    rows = [row for batch in reply["batches"] for row in batch]
    again = [row for batch in shuffled(rows, 4, seed=1) for row in batch]
    assert again != rows
    assert sorted(map(str, again)) == sorted(map(str, rows))
    batch = collate(rows[:4], pad=7)
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape
    assert batch["input_ids"].shape[1] == max(len(row["ids"]) for row in rows[:4])
    assert (batch["labels"] >= 0).sum(dim=1).tolist() == [1, 1, 1, 1]
    assert batch["attention_mask"].sum(dim=1).tolist() == [len(row["ids"]) for row in rows[:4]]
    assert all(row["tokens"] == len(row["ids"]) - 1 for row in rows)
