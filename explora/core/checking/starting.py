"""Checks of what a method does to the base: at the start, and in its first steps."""

from __future__ import annotations

from explora.core.checking.check import check
from explora.core.checking.differences import different_tensors, relative_difference
from explora.core.checking.subject import Subject, outputs, snapshot
from explora.core.estimate.parameters import count
from explora.core.training.checkpoint import trained_tensors


@check(
    "Before the first step, the model computes what the base computes.",
    name="start",
    tolerance=1e-4,
    reason="frozen weights may be stored for other kernels, which add in another order",
    meaning="training starts from another model than the base",
    remedy="do not use adapters of this method",
)
def start(subject: Subject) -> float:
    """Return the relative difference of the hidden states, which no fresh head can change."""
    trained = subject.trained
    return relative_difference(trained.first["hidden"], outputs(subject.base, trained.batch)["hidden"])


@check(
    "The method trains as many parameters as it declares.",
    name="count",
    tolerance=0,
    reason="numbers of parameters are exact",
    meaning="something is trained that should be frozen, or frozen that should be trained",
    remedy="do not use results of this method",
)
def declared(subject: Subject) -> float:
    """Return how many parameters are trained beyond the declared ones, or are missing."""
    session = subject.trained.session
    found = sum(value.numel() for value in trained_tensors(session.model).values())
    return abs(found - count(session.model.shape, session.method, session.classes).trainable)


@check(
    "Every trained tensor moves.",
    name="moves",
    tolerance=0,
    reason="tensors are counted",
    meaning="a part of what should be trained gets no gradient or no update",
    remedy="do not use results of this method",
)
def moves(subject: Subject) -> float:
    """Return how many trained tensors have their old bits after some steps."""
    trained, before = trained_tensors(subject.trained.session.model), subject.trained.before
    return len(trained) - different_tensors(trained, {name: before[name] for name in trained})


@check(
    "No frozen tensor moves.",
    name="frozen",
    tolerance=0,
    reason="tensors are counted",
    meaning="training changes the base, and an adapter file does not hold these changes",
    remedy="do not use adapters of this method",
)
def frozen(subject: Subject) -> float:
    """Return how many frozen tensors have other bits after some steps."""
    model = subject.trained.session.model
    trained = trained_tensors(model)
    before = {name: value for name, value in subject.trained.before.items() if name not in trained}
    return different_tensors(snapshot(model), before)
