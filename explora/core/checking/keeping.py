"""Checks of what a run keeps: its resume state, its weights, and the merged model."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from explora.core.checking.check import check
from explora.core.checking.differences import largest_difference
from explora.core.checking.subject import TASK, TRAINED_STEPS, Subject, copy_of_trained, outputs
from explora.core.config.concerns import RuntimeConfig
from explora.core.runs.assemble import Session, merge_in_memory, save_trained
from explora.core.runs.open import open_run


@check(
    "A run that is stopped and resumed gives the same bits as one without interruption.",
    name="resume",
    tolerance=0,
    reason="the same operations run in the same order",
    meaning="a resumed run is another run than the one that was started",
    remedy="do not use --resume: start again with --overwrite",
)
def resuming(subject: Subject) -> float:
    """Return the largest relative difference of a loss or of a trained tensor; with dropout."""
    whole = subject.trial(subject.noisy())
    losses = whole.train(TRAINED_STEPS)
    first = subject.trial(subject.noisy())
    begun = first.train(TRAINED_STEPS // 2)
    first.training.save()
    second = subject.trial(subject.noisy())
    second.training.resume()
    rest = second.train(TRAINED_STEPS - TRAINED_STEPS // 2)
    return largest_difference(
        {"losses": torch.tensor(begun + rest), **copy_of_trained(second.model)},
        {"losses": torch.tensor(losses), **copy_of_trained(whole.model)},
    )


@check(
    "The saved run computes what the trained model computes.",
    name="saved",
    tolerance=1e-5,
    reason="the trained model may store frozen weights for other kernels, which add in another order",
    meaning="the files of a run do not hold what was trained",
    remedy="do not use run folders of this method",
)
def saving(subject: Subject) -> float:
    """Return the largest relative difference of hidden states and class logits."""
    return largest_difference(_answers(subject, _saved(subject)), _trained_answers(subject))


@check(
    "The merged model computes what base and adapter compute, and is a plain GPT-2.",
    name="merge",
    tolerance=1e-5,
    reason="fp32 sums in another order differ by about 1e-6",
    meaning="merge-lora writes a model that answers differently from the run",
    remedy="use the run folder instead of a merged model",
)
def merging(subject: Subject) -> float:
    """Return the largest relative difference of hidden states and class logits."""
    session = _saved(subject)
    before = _answers(subject, session)
    merge_in_memory(session, torch.float32)
    own = {name for name, _ in session.model.named_parameters() if not name.startswith("score")}
    if own != {name for name, _ in subject.base.named_parameters()}:
        return math.inf
    return largest_difference(_answers(subject, session), before)


def _saved(subject: Subject) -> Session:
    """Return the trained model, saved and opened again."""
    folder = subject.folder / "saved"
    save_trained(subject.trained.session, folder, TRAINED_STEPS)
    runtime = RuntimeConfig(device="cpu", amp="off")
    return open_run(TASK, str(folder), model=subject.model, tokenizer=None, runtime=runtime)


def _answers(subject: Subject, session: Session) -> dict[str, Tensor]:
    return outputs(session.model.eval(), subject.trained.batch())


def _trained_answers(subject: Subject) -> dict[str, Tensor]:
    return _answers(subject, subject.trained.session)
