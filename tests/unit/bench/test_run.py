"""What a cell measures, of which rows, and how its process is asked."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from itertools import islice

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from explora.core.bench import cell_process
from explora.core.bench.cell_process import ClockedTraining, endless_batches, filled, measure, open_cell
from explora.core.bench.measurements import FEWEST_STEPS, Cell, Measurement
from explora.core.bench.other_load import OtherLoad
from explora.core.bench.protocol import ask, reason_of
from explora.core.bench.shared_rows import sample, write_sample
from explora.core.config.method import Method
from explora.core.config.registry import Shape
from explora.core.config.values import Blocks
from explora.core.data.batching import WINDOW
from explora.core.data.splits import Row as DataRow
from explora.core.estimate.flop import step_flop
from explora.core.methods.full import Full
from explora.core.methods.last_linear import LastLinear
from explora.core.methods.lora import LoRA
from explora.core.model.gpt2 import GPT2
from explora.core.runs.assemble import assemble_for_training, save_trained
from explora.core.tasks.contract import Example
from explora.core.training.checkpoint import trained_tensors
from explora.core.training.events import StepDone
from explora.core.training.loop import Training
from explora.errors import TrainingError
from tests.cells_here import cell
from tests.tiny_models import PAIRS, randomise, tiny_run

# --- a cell ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "method"), PAIRS)
def test_a_cell_measures_every_task_with_every_method(task, method, tiny_base, tiny_data, tmp_path):
    run = tiny_run(tiny_base, tiny_data, task, method=method)
    found = Measurement.from_json(measure(cell(run).to_json()))
    session, _, _ = assemble_for_training(run)
    save_trained(session, tmp_path / "saved", best_step=0)
    file = next((tmp_path / "saved").glob("*model.safetensors"))
    assert found.checkpoint_bytes == file.stat().st_size
    assert found.trainable == sum(value.numel() for value in trained_tensors(session.model).values())
    assert found.steps == 3
    assert 0 < found.examples <= 3 * 4
    assert 0 < found.forward + found.backward + found.optimizer <= found.seconds
    assert found.flop > 0
    assert found.matrix_peak > 0


def test_the_peak_is_read_after_the_longest_batch_met_the_optimizers_state(tiny_base, tiny_data, monkeypatch):
    """The first step has the longest batch, and no state of the optimizer yet."""
    states: list[int] = []
    repeat, peak = ClockedTraining.repeat_longest, cell_process.device_peak_bytes

    def repeat_and_look(self: ClockedTraining) -> None:
        states.append(sum(len(each.state) for each in self.training.optimizers))
        repeat(self)

    def read(device: torch.device) -> int:
        states.append(-1)
        return peak(device)

    monkeypatch.setattr(ClockedTraining, "repeat_longest", repeat_and_look)
    monkeypatch.setattr(cell_process, "device_peak_bytes", read)
    measure(cell(tiny_run(tiny_base, tiny_data, "paraphrase")).to_json())
    assert states[0] > 0
    assert states[1] == -1


def test_a_cell_is_the_real_training(tiny_base, tiny_data, tmp_path):
    run = tiny_run(tiny_base, tiny_data, "paraphrase", schedule="constant", warmup=0.0)
    wanted = cell(run, steps=4)
    session, run, examples = open_cell(wanted)
    clocked = ClockedTraining(session, run, examples)
    losses = [clocked.step() for _ in range(8)]
    real, train, dev = assemble_for_training(run)
    training = Training(real.model, real.task, run, train.examples, dev.examples, tmp_path / "checkpoint")
    events = [event for event in training.events() if isinstance(event, StepDone)][:8]
    assert losses == [event.loss for event in events]
    assert clocked.tokens == sum(event.tokens for event in events)


def test_contenders_read_the_same_rows_in_the_same_order(tiny_base, tiny_data):
    methods = ("full", "lora", "last-linear")
    runs = [tiny_run(tiny_base, tiny_data, "paraphrase", method=method) for method in methods]
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
    found = Measurement.from_json(measure(cell(run, length=30).to_json()))
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
    asked = cell(tiny_run(tiny_base, tiny_data, layers=Blocks.parse("0-1")), length=9)
    assert Cell.from_json(json.loads(json.dumps(asked.to_json()))) == asked


def test_the_sample_has_the_largest_batch_and_every_label(tiny_base, tiny_data, tmp_path):
    run = tiny_run(tiny_base, tiny_data, "sentiment", batch_size=2)
    setting = {"file": "f", "id": "", "values": {}}
    examples = [Example(row=DataRow(line=n, **setting), ids=[0] * (5 + n % 7), label=0) for n in range(1000)]
    examples[700] = dataclasses.replace(examples[700], ids=[0] * 50)
    examples[800] = dataclasses.replace(examples[800], label=1)
    rows = sample(examples, [run])
    assert 2 * WINDOW <= len(rows) <= 2 * WINDOW + 2
    assert {700, 800} < {row.line for row in rows}
    assert len({row.line for row in rows}) == len(rows)


def test_cells_read_what_the_sample_holds(tiny_base, tiny_data, tmp_path):
    run = tiny_run(tiny_base, tiny_data, "sonnet")
    _, train, _ = assemble_for_training(run)
    config = write_sample(sample(train.examples, [run]), tmp_path / "data")
    _, again, _ = assemble_for_training(dataclasses.replace(run, data=config))
    assert sorted(example.ids for example in again.examples) == sorted(
        example.ids for example in train.examples
    )


# --- operations -----------------------------------------------------------------------------------


PRODUCTS = (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.mkldnn._linear_pointwise)
ONEDNN = {PRODUCTS[-1]: lambda x, weight, *_, **__: 2 * x[0] * x[1] * weight[0]}


def counted_flop(method: Method, shape: Shape, tokens: int, positions: Tensor | None = None) -> float:
    """What torch counts in the products with weights of one step, at all positions or at one of two rows."""
    from explora.core.model.cross_entropy import tied_cross_entropy

    model = randomise(GPT2(shape))
    method.apply(model)
    ids = torch.randint(shape.vocab_size, (2, tokens // 2))
    with FlopCounterMode(display=False, custom_mapping=ONEDNN) as counter:
        hidden = model(ids, positions).flatten(0, 1)
        targets = ids.flatten() if positions is None else ids[:, 0]
        tied_cross_entropy(hidden, model.wte.weight, targets).backward()
    counts = counter.get_flop_counts()["Global"]
    return sum(value for name, value in counts.items() if name in PRODUCTS)


def test_flop_of_full_fine_tuning_are_those_that_torch_counts():
    shape, method = (
        Shape(n_layer=3, n_head=2, n_embd=32, n_positions=64, vocab_size=200),
        Full(),
    )
    assert step_flop(shape, method, 48, 48) == counted_flop(method, shape, 48)
    one_position = counted_flop(method, shape, 48, torch.tensor([23, 23]))
    assert step_flop(shape, method, 48, 2, answers=2) == one_position
    assert step_flop(shape, method, 48, 2) > one_position  # the last block counted at every token


@pytest.mark.parametrize("layers", [None, (3, 5)])
def test_flop_of_lora_are_about_those_that_torch_counts(layers):
    shape = Shape(n_layer=6, n_head=2, n_embd=128, n_positions=64, vocab_size=100)
    method = LoRA(rank=1, layers=layers)
    assert step_flop(shape, method, 48, 48) == pytest.approx(counted_flop(method, shape, 48), rel=0.08)


def test_flop_of_a_frozen_model_are_those_of_the_forward_pass():
    shape = Shape(n_layer=12, n_head=12, n_embd=768)
    assert step_flop(shape, LastLinear(), 1, 0) == 2 * 12 * 12 * 768**2
    assert step_flop(shape, LoRA(), 1, 0) == 4 * 12 * 12 * 768**2
    assert step_flop(shape, LastLinear(), 10, 0, answers=1) == 2 * 768**2 * (11 * 12 * 10 + 3 * 10 + 9)


# --- processes ------------------------------------------------------------------------------------


def test_a_process_that_refuses_says_why(tiny_base, tiny_data, tmp_path):
    run = dataclasses.replace(tiny_run(tiny_base, tiny_data), model=str(tmp_path / "absent"))
    with pytest.raises(TrainingError, match="absent"):
        ask("explora.core.bench.cell_process", cell(run).to_json())


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
