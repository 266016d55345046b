"""Memory by part: exact on tensors of known size, and on real cells within a tenth of the measured peak."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from explora.core.bench.accounting import runtime_bytes, tensor_parts
from explora.core.bench.cell_process import ClockedTraining, measure, open_cell
from explora.core.bench.device import Clock, settled_memory_bytes
from explora.core.bench.measurements import Measurement
from explora.core.bench.protocol import ask
from explora.core.config.precedence import resolve
from explora.core.machine.malloc import TUNABLES
from tests.cells_here import cell
from tests.tiny_models import tiny_run

SIDE = 256
MATRIX = 4 * SIDE * SIDE  # bytes


class Squares(nn.Module):
    """Keeps one matrix for the backward pass, and frees another before."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(SIDE, SIDE))

    def forward(self) -> Tensor:
        freed = self.weight.detach() * 2
        del freed
        return (self.weight * 2).pow(2).sum()  # pow keeps its input; its own result is freed at once


class Loop:
    """A training of Squares with the phases that the accounting reads."""

    def __init__(self, forward_phase: str = "forward") -> None:
        self.model, self.clock, self.phase = Squares(), Clock(torch.device("cpu")), forward_phase
        self.optimizer = torch.optim.AdamW(self.model.parameters(), fused=True)

    def step(self) -> None:
        with self.clock.phase(self.phase):
            loss = self.model()
        loss.backward()
        with self.clock.phase("optimizer"):
            self.optimizer.step()
            self.optimizer.zero_grad()

    def parts(self) -> dict[str, int]:
        self.step()  # the optimizer makes its state
        return dict(tensor_parts(self.model, [self.optimizer], self.clock, self.step))


def in_matrices(parts: dict[str, int]) -> dict[str, int]:
    """Small numbers, such as the loss and the step count, are less than half a matrix."""
    return {name: round(size / MATRIX) for name, size in parts.items()}


def test_every_tensor_is_counted_once_where_it_belongs():
    found = in_matrices(Loop().parts())
    # Backward: of the kept input, the gradient of `pow` and its factors.
    assert {name: found[name] for name in ("weights", "optimizer", "activations")} == {
        "weights": 1,
        "optimizer": 2,
        "activations": 1,
    }
    assert 1 <= found["temporaries"] <= 3


def test_what_only_the_forward_phase_made_is_no_activation_of_another():
    """The planted bug: without its phase, nothing can be told from a temporary."""
    assert in_matrices(Loop(forward_phase="elsewhere").parts())["activations"] == 0


def test_gradients_are_those_that_the_parameters_keep():
    loop = Loop()
    loop.optimizer.zero_grad = lambda: None  # type: ignore[method-assign]
    found = in_matrices(loop.parts())
    assert found["gradients"] <= 1
    largest_after = tensor_parts(loop.model, [loop.optimizer], loop.clock, lambda: None)
    assert in_matrices(dict(largest_after)) == {
        "weights": 1, "gradients": 0, "optimizer": 2, "activations": 0, "temporaries": 0,
    }  # fmt: skip


def test_packed_weights_are_weights(tiny_base, tiny_data):
    """They have no storage that could be followed, and some are no parameters."""
    session, _, _ = open_cell(cell(tiny_run(tiny_base, tiny_data, "paraphrase")))
    block = session.model.h[0].mlp.c_fc
    if not block.weight.is_mkldnn:
        block.pack(torch.float32, passes_gradient=True)
    if not block.weight.is_mkldnn:
        pytest.skip("oneDNN packs nothing here")
    parts = tensor_parts(session.model, [], Clock(torch.device("cpu")), lambda: None)
    plain = sum(value.numel() * value.element_size() for value in session.model.parameters())
    assert block.transposed is not None
    assert parts["weights"] >= plain + block.transposed.numel() * block.transposed.element_size()


def test_parts_of_a_real_step(tiny_base, tiny_data):
    def parts(**options: object) -> dict[str, int]:
        session, run, examples = open_cell(cell(tiny_run(tiny_base, tiny_data, "paraphrase", **options)))
        clocked = ClockedTraining(session, run, examples)
        clocked.step()
        optimizers = clocked.training.optimizers
        found = tensor_parts(session.model, optimizers, clocked.clock, clocked.repeat_longest)
        weights = sum(value.numel() * value.element_size() for value in session.model.parameters())
        assert weights <= found["weights"] <= 2 * weights  # what is packed may be held twice
        return dict(found)

    full, lora, again = parts(method="full"), parts(), parts(grad_checkpoint=True)
    assert full["optimizer"] == pytest.approx(2 * full["weights"], rel=0.01)
    assert lora["optimizer"] < 0.1 * full["optimizer"]
    assert 0 < again["activations"] < 0.5 * lora["activations"]


def test_weights_that_something_else_holds_too_are_counted_once():
    """The planted bug: such weights outlive the model, and what is left without it counted them again."""
    cpu, side = torch.device("cpu"), 4096
    before = settled_memory_bytes(cpu)
    model = nn.Linear(side, side, bias=False)
    held = [value.detach() for value in model.parameters()]
    model.weight.grad = torch.ones(side, side)
    runtime = runtime_bytes(model, [])
    assert abs(runtime - before) < 0.25 * held[0].nbytes


def test_accounting_comes_after_the_peak_is_read(tiny_base, tiny_data, monkeypatch):
    """It must not raise what it explains."""
    order: list[str] = []
    from explora.core.bench import cell_process as module

    for name in ("device_peak_bytes", "runtime_bytes", "tensor_parts", "matrix_peak"):
        real = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *given, real=real, name=name: (order.append(name), real(*given))[1]
        )
    measure(cell(tiny_run(tiny_base, tiny_data, "paraphrase")).to_json())
    assert order == ["device_peak_bytes", "runtime_bytes", "tensor_parts", "matrix_peak"]


@pytest.mark.parametrize(
    ("method", "amp", "grad_checkpoint"),
    [
        ("full", "bf16", False),
        ("last-linear", "off", False),
        ("lora", "off", True),
    ],
)
def test_the_parts_explain_the_measured_peak(method, amp, grad_checkpoint, tiny_data):
    options = {"method": method, "amp": amp, "grad_checkpoint": grad_checkpoint}
    options["data"] = str(tiny_data / "paraphrase")
    # As the bench asks: with everything decided, so that no trial of the machine raises the peak, and with
    # the tunables that keep freed memory usable.
    decided = {"device": "cpu", "threads": 1, "plain_attention": 128}
    run, _ = resolve("paraphrase", {**options, **decided})
    request = cell(run, length=64, steps=2).to_json()
    found = Measurement.from_json(ask("explora.core.bench.cell_process", request, TUNABLES))
    rest = found.peak_memory_bytes - sum(dataclasses.asdict(found.parts).values())
    assert abs(rest) <= 0.1 * found.peak_memory_bytes
    assert found.parts.runtime >= found.baseline_memory_bytes
