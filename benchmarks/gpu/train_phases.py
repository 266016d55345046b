"""Train a model in phases, each with its rows and its schedule, from any saved state."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from fit_schedule import Schedule
from torch import Tensor

from explora.core.model.gpt2 import GPT2

LEARNING_RATE = 3e-3  # of Muon and of AdamW, as for the shipped base
WEIGHT_DECAY = 0.1  # twice that of the shipped base: the text is read many times
SYNCHRONISED_EVERY = 10  # steps: between them, the clock runs ahead of the GPU

Loss = Callable[[GPT2, int], Tensor]


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One phase of the training.

    share: of the whole time. loss: of the batch of a number. tokens: of a batch. start: the phase whose
    weights and optimizer states it starts from, None for those at hand. kept: whether a later phase starts
    from its end. rate: of LEARNING_RATE. warmup, decay: see Schedule. steps_of: the phase that it takes the
    number of steps from, instead of the clock.
    """

    name: str
    share: float
    loss: Loss
    tokens: int
    start: str | None = None
    kept: bool = False
    rate: float = 1.0
    warmup: int = 0
    decay: float = 0.0
    steps_of: str | None = None


@dataclass
class Progress:
    """How far a training is: what is stored beside weights and optimizer states."""

    done: list[str] = field(default_factory=list)
    steps: dict[str, int] = field(default_factory=dict)
    step: int = 0
    phase_seconds: float = 0.0
    seconds: float = 0.0
    measuring: float | None = None  # seconds that the held-out text took
    pace: dict[int, float] = field(default_factory=dict)  # seconds of a step, by the tokens of its batch
    schedule: Schedule | None = None
    best_bits: float = float("inf")


class Training:
    """A model, its optimizers and its progress; `run` takes it through a phase.

    clock: seconds, monotonic. state: the file that `save` writes and that a new Training resumes from.
    """

    def __init__(self, model: GPT2, state: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.model, self.state, self.clock = model, state, clock
        self.optimizers = make_optimizers(model)
        self.progress = Progress()
        self.kept: dict[str, Any] = {}  # weights and optimizer states at the end of a phase
        self.best: dict[str, Tensor] = {}
        if state.exists():
            self._restore()
        self.began = clock() - self.progress.seconds

    def seconds(self) -> float:
        """Return the seconds of training so far, those before an interruption included."""
        return self.clock() - self.began

    def run(self, phase: Phase, schedule: Schedule, deadline: float) -> Iterator[dict[str, Any]]:
        """Train through a phase, or from where it was saved, and yield the figures of its synchronised steps.

        At `deadline`, in seconds of training, it stops, whatever the schedule.
        """
        at = self.progress
        if at.schedule is None:
            at.schedule, at.step, at.phase_seconds, at.best_bits = schedule, 0, 0.0, float("inf")
            self._start_from(phase)
        phase_began = self.clock() - at.phase_seconds
        total = torch.zeros((), device=self.model.device)
        first, mark = at.step, self.clock()
        while not at.schedule.is_done(at.step) and self.seconds() < deadline:
            total += self._take_step(phase, at.schedule)
            if at.step % SYNCHRONISED_EVERY and not at.schedule.is_done(at.step):
                continue
            loss, steps = total.item() / (at.step - first), at.step - first
            at.phase_seconds, at.seconds = self.clock() - phase_began, self.seconds()
            at.schedule.observe(at.step, at.phase_seconds)
            yield {
                "phase": phase.name,
                "step": at.step,
                "of": at.schedule.total,
                "loss": round(loss, 4),
                "tokens_per_second": round(steps * phase.tokens / (self.clock() - mark)),
            }
            total.zero_()
            first, mark = at.step, self.clock()
        self._finish(phase)

    def note_bits(self, bits: float) -> None:
        """Keep a copy of the weights if they are the best of this phase."""
        if bits < self.progress.best_bits:
            self.progress.best_bits = bits
            self.best = {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def save(self) -> None:
        """Write all that a new Training needs to take the same steps."""
        whole = {"now": self._copy(), "kept": self.kept, "best": self.best, "progress": self.progress}
        self.state.parent.mkdir(parents=True, exist_ok=True)
        partial = self.state.with_suffix(".part")
        torch.save(whole, partial)
        partial.replace(self.state)

    def _take_step(self, phase: Phase, schedule: Schedule) -> Tensor:
        rate = LEARNING_RATE * phase.rate * schedule.factor(self.progress.step)
        loss = phase.loss(self.model, self.progress.step)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        return loss.detach()

    def _start_from(self, phase: Phase) -> None:
        self.best = {}
        if phase.start is None:
            return
        kept = self.kept[phase.start]
        self.model.load_state_dict(kept["model"])
        for optimizer, values in zip(self.optimizers, kept["optimizers"], strict=True):
            optimizer.load_state_dict(copy.deepcopy(values))

    def _finish(self, phase: Phase) -> None:
        if self.best:
            self.model.load_state_dict(self.best)
        at = self.progress
        at.done.append(phase.name)
        at.steps[phase.name] = at.step
        if at.schedule and at.schedule.seconds_per_step:
            at.pace[phase.tokens] = at.schedule.seconds_per_step
        at.schedule, at.seconds = None, self.seconds()
        if phase.kept:
            self.kept[phase.name] = self._copy()
        self.save()

    def _copy(self) -> dict[str, Any]:
        return copy.deepcopy(
            {"model": self.model.state_dict(), "optimizers": [o.state_dict() for o in self.optimizers]}
        )

    def _restore(self) -> None:
        whole = torch.load(self.state, map_location=self.model.device, weights_only=False)
        self.progress, self.kept, self.best = whole["progress"], whole["kept"], whole["best"]
        self.model.load_state_dict(whole["now"]["model"])
        for optimizer, values in zip(self.optimizers, whole["now"]["optimizers"], strict=True):
            optimizer.load_state_dict(values)


def make_optimizers(model: GPT2) -> list[torch.optim.Optimizer]:
    """Return Muon for the blocks' matrices and AdamW for the rest; weight decay on matrices alone."""
    blocks = [value for value in model.h.parameters() if value.ndim == 2]
    embeddings = [model.wte.weight, model.wpe.weight]
    vectors = [value for value in model.parameters() if value.ndim == 1]
    muon = torch.optim.Muon(
        blocks, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    groups = [{"params": embeddings, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    fused = model.device.type == "cuda"
    return [muon, torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.95), fused=fused)]
