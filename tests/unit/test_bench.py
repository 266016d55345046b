"""What a cell measures, what becomes of the figures, and the comparison with another stack."""

from __future__ import annotations

import dataclasses
import json
import random
import signal
import subprocess
import sys
from collections.abc import Mapping
from itertools import islice
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from explora.core.batching import WINDOW
from explora.core.bench import running
from explora.core.bench.cell import ClockedTraining, endless_batches, filled, measure, open_cell
from explora.core.bench.cells import FEWEST_STEPS, WARMUP_STEPS, Cell, Contender, Measurement
from explora.core.bench.flop import step_flop
from explora.core.bench.load import OtherLoad
from explora.core.bench.protocol import ask, reason_of
from explora.core.bench.reference import export
from explora.core.bench.rows import Outcome, Row, summarise
from explora.core.bench.running import Bench, CellDone, Plan, Result
from explora.core.bench.sample import sample, write_sample
from explora.core.bench.verdict import verdict
from explora.core.checkpoint import trained_tensors
from explora.core.config import MethodConfig, TrainRun
from explora.core.data import Row as DataRow
from explora.core.model import GPT2
from explora.core.registry import METHODS, TASKS, Shape, load_implementation
from explora.core.session import open_for_training, save_trained
from explora.core.tasks.contract import Example
from explora.core.training import StepDone, Training
from explora.errors import TrainingError, UsageError
from tests.cells_here import ask_here
from tests.tiny_models import PAIRS, randomise, tiny_run


@pytest.fixture
def in_process(monkeypatch):
    monkeypatch.setattr(running, "ask", ask_here)


def cell(run: TrainRun, **changes: Any) -> Cell:
    return Cell(**{"run": run, "length": None, "steps": 3, "seconds": 0.0, **changes})


def plan(*runs: TrainRun, **changes: Any) -> Plan:
    chosen = {"repeats": 1, "steps": 2, "length": None, "peer": False}
    return Plan(runs=runs, **{**chosen, **changes})


def finish(bench: Bench) -> tuple[list[CellDone], Result]:
    *cells, result = bench.events()
    assert isinstance(result, Result)
    return cells, result


# --- a cell ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "method"), PAIRS)
def test_a_cell_measures_every_task_with_every_method(task, method, tiny_base, tiny_data, tmp_path):
    run = tiny_run(tiny_base, tiny_data, task, method=method)
    found = Measurement(**measure(cell(run).to_json()))
    session, _, _ = open_for_training(run)
    save_trained(session, tmp_path / "saved", best_step=0)
    file = next((tmp_path / "saved").glob("*model.safetensors"))
    assert found.checkpoint_bytes == file.stat().st_size
    assert found.trainable == sum(value.numel() for value in trained_tensors(session.model).values())
    assert found.steps == 3
    assert 0 < found.examples <= 3 * 4
    assert 0 < found.forward + found.backward + found.optimizer <= found.seconds
    assert found.flop > 0
    assert found.matrix_peak > 0


def test_a_cell_is_the_real_training(tiny_base, tiny_data, tmp_path):
    run = tiny_run(tiny_base, tiny_data, "paraphrase", schedule="constant", warmup=0.0)
    wanted = cell(run, steps=4)
    session, run, examples = open_cell(wanted)
    clocked = ClockedTraining(session, run, examples)
    losses = [clocked.step() for _ in range(8)]
    real, train, dev = open_for_training(run)
    training = Training(real.model, real.task, run, train.examples, dev.examples, tmp_path / "checkpoint")
    events = [event for event in training.events() if isinstance(event, StepDone)][:8]
    assert losses == [event.loss for event in events]
    assert clocked.tokens == sum(event.tokens for event in events)


def test_contenders_read_the_same_rows_in_the_same_order(tiny_base, tiny_data):
    runs = [tiny_run(tiny_base, tiny_data, "paraphrase", method=method) for method in METHODS]
    digests = {measure(cell(run).to_json())["rows"] for run in runs}
    other = measure(cell(tiny_run(tiny_base, tiny_data, "paraphrase", seed=5)).to_json())["rows"]
    assert len(digests) == 1
    assert other not in digests


def test_the_first_loss_is_the_base_s_and_the_largest_batch_comes_first(tiny_base, tiny_data):
    run = tiny_run(tiny_base, tiny_data, "paraphrase")
    session, run, examples = open_cell(cell(run))
    lengths = [len(example.ids) for example in examples]
    epoch = list(islice(endless_batches(lengths, run), 6))
    rows = epoch[0][1]
    batch = session.task.collate([examples[row] for row in rows], 0)
    with torch.no_grad():
        loss = float(session.task.loss(session.model, batch)) / batch.weight
    assert batch.input_ids.numel() == max(
        len(chosen) * max(lengths[row] for row in chosen) for _, chosen in epoch
    )
    assert measure(cell(run).to_json())["first_loss"] == pytest.approx(loss, abs=1e-6)


def test_batches_never_end_and_an_epoch_has_every_row_once(tiny_base, tiny_data):
    run = tiny_run(tiny_base, tiny_data, "paraphrase")
    found = list(islice(endless_batches([5] * 10, run), 9))
    assert [epoch for epoch, _ in found] == [0] * 3 + [1] * 3 + [2] * 3
    assert all(
        sorted(row for epoch, rows in found for row in rows if epoch == wanted) == list(range(10))
        for wanted in range(3)
    )


def test_without_a_number_of_steps_time_decides(tiny_base, tiny_data):
    run = tiny_run(tiny_base, tiny_data, "paraphrase")
    assert measure(cell(run, steps=None, seconds=0.0).to_json())["steps"] == FEWEST_STEPS
    assert measure(cell(run, steps=None, seconds=1.0).to_json())["steps"] > FEWEST_STEPS


def test_rows_are_filled_to_a_length(tiny_base, tiny_data):
    run = tiny_run(tiny_base, tiny_data, "sonnet")
    found = Measurement(**measure(cell(run, length=30).to_json()))
    assert found.tokens == 30 * found.examples
    _, _, examples = open_cell(cell(run))
    poem = examples[0]
    longer, shorter, shortest = (filled(poem, length) for length in (1000, poem.breaks[1] + 1, 8))
    assert longer.ids[: len(poem.ids)] == list(poem.ids)
    assert len(longer.ids) == 1000
    assert longer.breaks == poem.breaks
    assert shorter.ids == list(poem.ids[: len(shorter.ids)])
    assert shorter.breaks == poem.breaks[:2]
    assert shortest.breaks == (8,)


def test_a_cell_survives_json(tiny_base, tiny_data):
    asked = cell(tiny_run(tiny_base, tiny_data, layers=(0, 1)), length=9)
    assert Cell.from_json(json.loads(json.dumps(asked.to_json()))) == asked


def test_the_sample_has_the_largest_batch_and_every_label(tiny_base, tiny_data, tmp_path):
    run = tiny_run(tiny_base, tiny_data, "sentiment", batch_size=2)
    setting = {"file": "f", "id": "", "values": {}}
    examples = [Example(row=DataRow(line=n, **setting), ids=[0] * (5 + n % 7), label=0) for n in range(1000)]
    examples[700] = dataclasses.replace(examples[700], ids=[0] * 50)
    examples[800] = dataclasses.replace(examples[800], label=1)
    rows = sample(examples, run)
    assert 2 * WINDOW <= len(rows) <= 2 * WINDOW + 2
    assert {700, 800} < {row.line for row in rows}
    assert len({row.line for row in rows}) == len(rows)


def test_cells_read_what_the_sample_holds(tiny_base, tiny_data, tmp_path):
    run = tiny_run(tiny_base, tiny_data, "sonnet")
    _, train, _ = open_for_training(run)
    config = write_sample(sample(train.examples, run), tmp_path / "data")
    _, again, _ = open_for_training(dataclasses.replace(run, data=config))
    assert sorted(example.ids for example in again.examples) == sorted(
        example.ids for example in train.examples
    )


# --- operations -----------------------------------------------------------------------------------


def counted_flop(method: MethodConfig, shape: Shape, tokens: int) -> float:
    """What torch counts in the products with weights of one step of language modelling."""
    from explora.core.cross_entropy import tied_cross_entropy

    model = randomise(GPT2(shape))
    load_implementation(METHODS[method.method].implementation).apply(model, method)
    ids = torch.randint(shape.vocab_size, (2, tokens // 2))
    with FlopCounterMode(display=False) as counter:
        hidden = model(ids).reshape(tokens, -1)
        tied_cross_entropy(hidden, model.wte.weight, ids.reshape(-1)).backward()
    counts = counter.get_flop_counts()["Global"]
    return sum(value for name, value in counts.items() if name in (torch.ops.aten.mm, torch.ops.aten.addmm))


def test_flop_of_full_fine_tuning_are_those_that_torch_counts():
    shape, method = (
        Shape(n_layer=3, n_head=2, n_embd=32, n_positions=64, vocab_size=200),
        MethodConfig(method="full"),
    )
    assert step_flop(shape, method, 48, 48) == counted_flop(method, shape, 48)


@pytest.mark.parametrize("layers", [None, (3, 5)])
def test_flop_of_lora_are_about_those_that_torch_counts(layers):
    shape = Shape(n_layer=6, n_head=2, n_embd=128, n_positions=64, vocab_size=100)
    method = MethodConfig(rank=1, layers=layers)
    assert step_flop(shape, method, 48, 48) == pytest.approx(counted_flop(method, shape, 48), rel=0.08)


def test_flop_of_a_frozen_model_are_those_of_the_forward_pass():
    shape = Shape(n_layer=12, n_head=12, n_embd=768)
    assert step_flop(shape, MethodConfig(method="last-linear"), 1, 0) == 2 * 12 * 12 * 768**2
    assert step_flop(shape, MethodConfig(), 1, 0) == 4 * 12 * 12 * 768**2


# --- processes ------------------------------------------------------------------------------------


def test_a_process_that_refuses_says_why(tiny_base, tiny_data, tmp_path):
    run = dataclasses.replace(tiny_run(tiny_base, tiny_data), model=str(tmp_path / "absent"))
    with pytest.raises(TrainingError, match="absent"):
        ask("explora.core.bench.cell", cell(run).to_json())


def test_a_process_that_breaks_says_why():
    with pytest.raises(TrainingError, match="No module named"):
        ask("explora.core.bench.nonsense", {})


def test_reasons():
    assert "out of memory" in reason_of(-signal.SIGKILL, "")
    assert "SIGSEGV" in reason_of(-signal.SIGSEGV, "")
    assert reason_of(1, "Traceback\nValueError: no\n") == "ValueError: no"
    assert "exit code 3" in reason_of(3, "")
    assert reason_of(1, "MemoryError\n").startswith("out of memory")
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 55)
    assert reason_of(1, f"Traceback\nRuntimeError: {caught.value}").startswith("out of memory")


def test_load_counts_what_others_do():
    load = OtherLoad()
    with subprocess.Popen(
        [sys.executable, "-c", "import time\nwhile time.process_time() < 0.5: pass"]
    ) as other:
        while other.poll() is None and load.processors() == 0.0:
            pass
        while_running = load.processors()
    assert while_running > 0


# --- figures --------------------------------------------------------------------------------------


def found(tokens_per_second: float = 100.0, memory: int = 1000, **changes: Any) -> Measurement:
    values = {
        "steps": 2,
        "examples": 8,
        "tokens": 200,
        "seconds": 200 / tokens_per_second,
        "forward": 0.5,
        "backward": 0.75,
        "optimizer": 0.25,
        "flop": 1e9,
        "matrix_peak": 1e10,
        "peak_memory_bytes": memory,
        "baseline_memory_bytes": 200,
        "trainable": 10,
        "total": 1000,
        "checkpoint_bytes": 40,
        "first_loss": 0.7,
        "rows": "",
    }
    return Measurement(**{**values, **changes})


def contender(method: str = "lora", rank: int = 8, stack: str = "explora", amp: str = "bf16") -> Contender:
    run = TrainRun(task="paraphrase", method=MethodConfig(method=method, rank=rank))
    runtime = dataclasses.replace(run.runtime, amp=amp, threads=2)
    return Contender(run=dataclasses.replace(run, runtime=runtime), stack=stack)


def rows_of(**speeds: tuple[Contender, list[Measurement]]) -> list[Row]:
    outcomes = [Outcome(contender=who, found=tuple(what), error=None) for who, what in speeds.values()]
    return summarise(outcomes, "tiny", None, 0.7)


def test_a_row_has_medians_and_ends():
    (row,) = rows_of(lora=(contender(), [found(300, 5), found(100, 7), found(110, 6)]))
    assert row.tokens_per_second == 110
    assert row.examples_per_second == pytest.approx(8 / (200 / 110), abs=1e-3)
    assert row.peak_memory_bytes == 6
    assert row.spread is not None
    assert row.spread.tokens_per_second == (100, 300)
    assert row.spread.peak_memory_bytes == (5, 7)
    assert row.seconds is not None
    assert (row.seconds.forward, row.seconds.backward, row.seconds.optimizer) == (0.25, 0.375, 0.125)
    assert row.share == 0.01
    assert row.reference_loss is None


def test_the_matrix_peak_is_the_best_of_all_cells_in_that_dtype():
    fast, slow = found(matrix_peak=4e10), found(matrix_peak=1e10)
    own, other, fp32 = rows_of(
        a=(contender(), [slow]), b=(contender(rank=4), [fast]), c=(contender(amp="off"), [slow])
    )
    assert own.matrix_peak == other.matrix_peak == 4e10
    assert fp32.matrix_peak == 1e10
    assert own.matrix_share == pytest.approx(1e9 / 2.0 / 4e10, abs=1e-4)


def test_a_contender_that_failed_has_no_figures():
    outcome = Outcome(contender=contender(), found=(found(),), error="out of memory")
    (row,) = summarise([outcome], "tiny", None, None)
    assert row.error == "out of memory"
    assert row.tokens_per_second is None
    assert row.trainable is None


QUIET = {"cores": 2, "processors": 2, "busy_elsewhere": 0.0}


def said(machine: Mapping[str, Any] = QUIET, **speeds: tuple[Contender, list[Measurement]]) -> str:
    return " ".join(verdict(rows_of(**speeds), machine))


def test_a_verdict_in_favour():
    text = said(
        full=(contender("full"), [found(50, 2000), found(52, 2000)]),
        last=(contender("last-linear"), [found(300, 900), found(310, 900)]),
        lora=(contender(), [found(100, 1000), found(104, 1000)]),
    )
    assert text.startswith("LoRA pays off here, in time and in memory")
    assert (
        "lora r=8 against full fine-tuning: 2.00 (1.92 to 2.08) times as fast, 0.50 (0.50 to 0.50) times"
        in text
    )
    assert "against last-linear: 0.33" in text


@pytest.mark.parametrize(
    ("speed", "memory", "opening"),
    [
        (100, 3000, "LoRA pays off here in time, not in memory"),
        (50, 1000, "LoRA pays off here in memory, not in time"),
        (20, 3000, "LoRA does not pay off here"),
    ],
)
def test_other_verdicts(speed, memory, opening):
    text = said(
        full=(contender("full"), [found(50, 2000), found(52, 2000)]),
        lora=(contender(), [found(speed, memory), found(speed + 1, memory)]),
    )
    assert text.startswith(opening)


def test_ranges_that_overlap_are_not_distinguishable():
    text = said(
        full=(contender("full"), [found(50, 900), found(70, 1100)]),
        lora=(contender(), [found(60, 1000), found(61, 1000)]),
    )
    assert "speed not distinguishable, memory not distinguishable" in text
    assert text.startswith("LoRA does not pay off here")


def test_ranks_are_compared_and_the_middle_one_speaks_for_lora():
    slow, fast = [found(80), found(81)], [found(100), found(101)]
    text = said(
        full=(contender("full"), slow),
        a=(contender(rank=4), fast),
        b=(contender(rank=8), fast),
        c=(contender(rank=16), slow),
    )
    assert "lora r=8 against full" in text
    assert "Rank 4 against 16: 1.25" in text


def test_doubts_are_said():
    once = said(full=(contender("full"), [found(50)]), lora=(contender(), [found(100)]))
    assert "Measured once" in once
    busy = said({**QUIET, "busy_elsewhere": 1.2}, lora=(contender(), [found(), found()]))
    assert "1.2 of 2 processors" in busy
    assert "no verdict on LoRA" in busy
    assert "not measured" in said(full=(contender("full"), [found()]))


# --- a whole bench, and the peer ------------------------------------------------------------------


def test_contenders_take_turns_on_as_many_steps_as_the_first_found_time_for(
    in_process, tiny_base, tiny_data, monkeypatch, tmp_path
):
    monkeypatch.setattr(running, "TIMED_SECONDS", 1.2)
    runs = [tiny_run(tiny_base, tiny_data, "paraphrase", method=method) for method in METHODS]
    cells, result = finish(Bench(plan(*runs, repeats=2, steps=None), tmp_path))
    names = ["lora r=8", "full", "last-linear"]
    assert [each.contender for each in cells] == names + names[::-1]
    assert [each.done for each in cells] == [1, 2, 3, 4, 5, 6]
    assert len({row.steps for row in result.rows}) == 1
    assert [row.repeats for row in result.rows] == [2, 2, 2]


def test_a_contender_that_failed_is_not_run_again(in_process, tiny_base, tiny_data, monkeypatch, tmp_path):
    asked = []

    def failing(module, request):
        asked.append(request["run"]["method"]["method"])
        if asked[-1] == "full":
            raise TrainingError("out of memory")
        return ask_here(module, request)

    monkeypatch.setattr(running, "ask", failing)
    runs = [tiny_run(tiny_base, tiny_data, "paraphrase", method=method) for method in ("full", "lora")]
    cells, result = finish(Bench(plan(*runs, repeats=3), tmp_path))
    assert asked == ["full", "lora", "lora", "lora"]
    assert [each.is_new for each in cells if each.error] == [True, False, False]
    assert [row.error for row in result.rows] == ["out of memory", None]


def test_nothing_measured_is_an_error(tiny_base, tiny_data, monkeypatch, tmp_path):
    def failing(module, request):
        raise TrainingError("out of memory")

    monkeypatch.setattr(running, "ask", failing)
    with pytest.raises(TrainingError, match="no cell could be measured; lora r=8: out of memory"):
        finish(Bench(plan(tiny_run(tiny_base, tiny_data, "paraphrase")), tmp_path))


def test_other_rows_are_not_comparable(tiny_base, tiny_data, monkeypatch, tmp_path):
    monkeypatch.setattr(running, "ask", lambda module, request: found(rows=str(random.random())).to_json())
    runs = [tiny_run(tiny_base, tiny_data, "paraphrase", method=method) for method in ("full", "lora")]
    _, result = finish(Bench(plan(*runs), tmp_path))
    assert "other rows" in str(result.rows[1].error)


def test_what_is_wrong_is_said_before_any_cell(tiny_base, tiny_data, tmp_path):
    with pytest.raises(UsageError, match="at most 192 tokens"):
        Bench(plan(tiny_run(tiny_base, tiny_data, "paraphrase"), length=193), tmp_path)
    with pytest.raises(UsageError, match="compared with LoRA"):
        Bench(plan(tiny_run(tiny_base, tiny_data, "paraphrase", method="full"), peer=True), tmp_path)
    with pytest.raises(UsageError, match="sentiment"):
        Bench(plan(tiny_run(tiny_base, tiny_data, "sentiment"), peer=True), tmp_path)


# What peft 0.21 asks of transformers 5.
OF_PEERS = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@OF_PEERS
@pytest.mark.parametrize("task", [task for task in TASKS if task != "sentiment"])
def test_the_peer_starts_from_the_same_loss(task, in_process, tiny_base, tiny_data, tmp_path):
    _, result = finish(Bench(plan(tiny_run(tiny_base, tiny_data, task, rank=3), peer=True), tmp_path))
    own, peer = result.rows
    assert peer.error is None
    assert peer.first_loss == pytest.approx(peer.reference_loss, abs=1e-5)
    assert own.first_loss == pytest.approx(peer.reference_loss, abs=1e-5)
    assert peer.stack.startswith("transformers ")
    assert (peer.steps, peer.batch_size) == (own.steps, own.batch_size)


def test_the_loss_to_start_from_knows_no_dropout(tiny_base, tiny_data):
    runs = [tiny_run(tiny_base, tiny_data, "paraphrase", dropout=dropout) for dropout in (0.0, 0.5)]
    plain, dropped = (export({"cell": cell(run).to_json(), "folder": ""})["loss"] for run in runs)
    assert plain == dropped


@OF_PEERS
def test_another_base_is_not_compared(tiny_base, tiny_data, tmp_path, monkeypatch):
    """The planted bug: the peer trains a base of which one matrix differs."""

    def other_base(module, request):
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
    _, result = finish(Bench(plan(tiny_run(tiny_base, tiny_data, "paraphrase"), peer=True), tmp_path))
    assert "not compared: its loss on the first batch is" in str(result.rows[1].error)
    assert result.rows[1].tokens_per_second is None


def test_the_peer_reads_the_same_rows_in_random_order(tiny_base, tiny_data):
    from explora.core.bench.peer import collate, shuffled

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
