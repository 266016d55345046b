"""Checks of a run's files: its resume state, its weights, and the merged model."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import torch

from explora.core.checking.check import check
from explora.core.checking.differences import largest_difference
from explora.core.checking.subject import TRAINED_STEPS, Subject, outputs, with_losses
from explora.core.estimate.parameters import HEAD
from explora.core.runs.assemble import merge_in_memory


@check(
    "A run that is stopped and resumed gives the same bits as one without interruption.",
    name="resume",
    tolerance=0,
    reason="the same operations run in the same order",
    meaning="a resumed run gives another result than an uninterrupted run",
    remedy="do not use --resume: start again with --overwrite",
)
def resuming(subject: Subject) -> float:
    """Return the largest relative difference of a loss or of a trained tensor, with dropout."""
    first = subject.trial(subject.noisy())
    begun = first.train(TRAINED_STEPS // 2)
    first.training.save()
    second = subject.trial(subject.noisy())
    second.training.resume()
    rest = second.train(TRAINED_STEPS - TRAINED_STEPS // 2)
    return largest_difference(with_losses(begun + rest, second.model), subject.uninterrupted)


@check(
    "The saved run computes the same as the trained model.",
    name="saved",
    tolerance=1e-4,
    reason="the trained model may store frozen weights for other kernels, which add in another order",
    meaning="the files of a run do not contain the trained model",
    remedy="do not use run folders of this method",
)
def saving(subject: Subject) -> float:
    """Return the largest relative difference of hidden states and class logits."""
    reopened = outputs(subject.reopened.model, subject.trained.batch)
    return largest_difference(reopened, subject.trained.last)


@check(
    "The merged model computes the same as base and adapter, and is a plain GPT-2.",
    name="merge",
    tolerance=1e-4,
    reason="fp32 sums in another order differ by about 1e-6",
    meaning="merge-lora writes a model that answers differently from the run",
    remedy="use the run folder instead of a merged model",
)
def merging(subject: Subject) -> float:
    """Return the largest relative difference of hidden states and class logits."""
    session = replace(subject.reopened, model=copy.deepcopy(subject.reopened.model))
    batch = subject.trained.batch
    before = outputs(session.model, batch)
    merge_in_memory(session, torch.float32)
    own = {name for name, _ in session.model.named_parameters() if not name.startswith(HEAD)}
    if own != {name for name, _ in subject.base.named_parameters()}:
        return math.inf
    return largest_difference(outputs(session.model, batch), before)
