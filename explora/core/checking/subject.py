"""A method on a small task, prepared for its checks: ten short rows, fp32, on the CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from explora.core.base.tokenizer import Tokenizer
from explora.core.config.concerns import RuntimeConfig
from explora.core.config.precedence import fit_learning_rate, resolve
from explora.core.config.registry import method_class
from explora.core.config.run_config import TrainRun, field_names
from explora.core.files import write_atomically
from explora.core.model.gpt2 import GPT2
from explora.core.runs.assemble import Session, assemble_for_training, save_trained
from explora.core.runs.open import open_run
from explora.core.tasks.contract import Batch
from explora.core.training.checkpoint import trained_tensors
from explora.core.training.events import StepDone
from explora.core.training.loop import Training

TASK = "sentiment"  # every method can be trained for it, and the LoRA family adapts all modules for it
# Short, so that a check is fast; of different lengths, so that batches have padding.
ROWS = (
    ("The plot goes nowhere.", "bad"),
    ("Great.", "good"),
    ("A joy to watch.", "good"),
    ("Dull.", "bad"),
    ("I want it back.", "good"),
    ("Far too long.", "bad"),
    ("I am a fan.", "good"),
    ("Poor.", "bad"),
    ("The sound is poor.", "bad"),
    ("Wise.", "good"),
)
TRAINED_STEPS = 3  # LoRA's A changes from the second step on; an epoch has five steps


def write_rows(folder: Path) -> None:
    """Write ROWS as train.csv and dev.csv."""
    lines = ["sentence,label", *(f'"{sentence}",{label}' for sentence, label in ROWS)]
    for split in ("train", "dev"):
        write_atomically(folder / f"{split}.csv", "\n".join(lines) + "\n")


@dataclass
class Trial:
    """A training, step by step. `gradients` are those of its last step, before clipping."""

    session: Session
    training: Training
    gradients: dict[str, Tensor] = field(default_factory=dict)

    @property
    def model(self) -> GPT2:
        """The trained model."""
        return self.session.model

    @contextmanager
    def watch(self, phase: str) -> Iterator[None]:
        """Keep the gradients when the phase "optimizer" begins. This is the `phase` of the training."""
        if phase == "optimizer":
            self.gradients = _gradients(self.model)
        yield

    def gradients_of(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Take an optimizer step on these rows; return its gradients."""
        self.training.take_step(rows, epoch=0)
        return self.gradients

    def plain_gradients_of(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Return the gradients of the mean loss over these rows, as one batch, without cached features."""
        examples = [replace(self.training.examples[row], features=None) for row in rows]
        batch = self.session.task.collate(examples, 0)
        loss = self.session.task.loss(self.model.train(), batch) / batch.weight
        loss.backward()  # type: ignore[no-untyped-call]
        found = _gradients(self.model)
        self.model.zero_grad()
        return found

    def train(self, steps: int) -> list[float]:
        """Continue the training by `steps` steps with the training loop; return their losses."""
        losses: list[float] = []
        for event in self.training.events():
            if isinstance(event, StepDone):
                losses.append(event.loss)
            if len(losses) == steps:
                break
        return losses

    def batch(self) -> Batch:
        """Return all rows as one batch."""
        return self.session.task.collate(self.training.examples, 0)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained model with its states before and after training.

    before: every parameter before the first step; first, last: `outputs` for `batch`, before the first step
    and after the last one.
    """

    session: Session
    batch: Batch
    before: dict[str, Tensor]
    first: dict[str, Tensor]
    last: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A method, the base it is checked on, and a folder for its files.

    model: the base by name; base, tokenizer: the same, opened once for all checks, in fp32; data: the folder
    of `write_rows`.
    """

    method: str
    model: str
    base: GPT2
    tokenizer: Tokenizer
    data: Path
    folder: Path

    def has_setting(self, name: str) -> bool:
        """Return whether the method has a setting."""
        return name in field_names(method_class(self.method))

    def run(self, settings: Mapping[str, Any]) -> TrainRun:
        """Return a run of TRAINED_STEPS steps; `settings`, by name, override the usual ones."""
        own = {
            "method": self.method,
            "model": self.model,
            "data": str(self.data),
            "batch_size": 2,
            "max_steps": TRAINED_STEPS,
            "device": "cpu",
            "amp": "off",
        }
        return fit_learning_rate(*resolve(TASK, {**own, **settings}), self.base.shape.n_embd)[0]

    def trial(self, settings: Mapping[str, Any] | None = None) -> Trial:
        """Assemble a training in the same way as `explora train`, always with the same seed."""
        run = self.run(settings or {})
        session, train, dev = assemble_for_training(run, self.tokenizer)
        folder = self.folder / "checkpoint"
        training = Training(session.model, session.task, run, train.examples, dev.examples, folder)
        trial = Trial(session, training)
        training.phase = trial.watch
        return trial

    def noisy(self) -> dict[str, Any]:
        """Return settings with every kind of dropout that the method has."""
        own = {"lora_dropout": 0.1} if self.has_setting("lora_dropout") else {}
        return {"dropout": 0.1, **own}

    @cached_property
    def trained(self) -> Trained:
        """The model of a training without dropout, after its last step."""
        trial = self.trial()
        model, batch = trial.model, trial.batch()
        before, first = snapshot(model), outputs(model.eval(), batch)
        trial.train(TRAINED_STEPS)
        return Trained(
            session=trial.session, batch=batch, before=before, first=first, last=outputs(model.eval(), batch)
        )

    @cached_property
    def uninterrupted(self) -> dict[str, Tensor]:
        """The losses and the trained tensors of a training with dropout."""
        trial = self.trial(self.noisy())
        return with_losses(trial.train(TRAINED_STEPS), trial.model)

    @cached_property
    def reopened(self) -> Session:
        """The trained model, saved and opened again in the same way as `explora eval`."""
        folder = self.folder / "saved"
        save_trained(self.trained.session, folder, TRAINED_STEPS)
        runtime = RuntimeConfig(device="cpu", amp="off")
        session = open_run(TASK, str(folder), model=self.model, tokenizer=None, runtime=runtime)
        session.model.eval()
        return session


def dense(value: Tensor) -> Tensor:
    """Return a copy of a tensor of any layout as a dense tensor."""
    plain = value.detach()
    return (plain if plain.layout is torch.strided else plain.to_dense()).clone()


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    named = model.named_parameters()
    return {name: dense(value.grad) for name, value in named if value.grad is not None}


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of every parameter."""
    return {name: dense(value) for name, value in model.named_parameters()}


@torch.no_grad()
def outputs(model: GPT2, batch: Batch) -> dict[str, Tensor]:
    """Return the hidden states of the real tokens, (N, C), and the class logits, (B, classes), if any."""
    hidden = model(batch.input_ids)
    lengths = batch.positions + 1
    real = torch.arange(hidden.shape[1]) < lengths[:, None]
    found = {"hidden": hidden[real]}
    if model.score is not None:
        found["classes"] = model.classify(hidden[torch.arange(len(lengths)), batch.positions])
    return found


def with_losses(losses: Sequence[float], model: GPT2) -> dict[str, Tensor]:
    """Return copies of the trained tensors, together with the losses of their steps."""
    trained = {name: value.clone() for name, value in trained_tensors(model).items()}
    return {"losses": torch.tensor(losses), **trained}
