"""Checks of a method's effect on the base: at the start, and in its first steps."""

from __future__ import annotations

from explora.core.checking.check import check
from explora.core.checking.differences import different_tensors, relative_difference
from explora.core.checking.subject import Subject, outputs, snapshot
from explora.core.estimate.parameters import count
from explora.core.training.checkpoint import trained_tensors


@check(
    "Before the first step, the model computes the same as the base.",
    name="start",
    tolerance=1e-4,
    reason="frozen weights may be stored for other kernels, which add in another order",
    meaning="training starts from another model than the base",
    remedy="do not use adapters of this method",
)
def start(subject: Subject) -> float:
    """Return the relative difference of the hidden states, which do not depend on a new head."""
    trained = subject.trained
    return relative_difference(trained.first["hidden"], outputs(subject.base, trained.batch)["hidden"])


@check(
    "The method trains as many parameters as it declares.",
    name="count",
    tolerance=0,
    reason="numbers of parameters are exact",
    meaning="a tensor is trained that should be frozen, or frozen that should be trained",
    remedy="do not use results of this method",
)
def declared(subject: Subject) -> float:
    """Return the difference between the numbers of trained and of declared parameters."""
    session = subject.trained.session
    found = sum(value.numel() for value in trained_tensors(session.model).values())
    return abs(found - count(session.model.shape, session.method, session.classes).trainable)


@check(
    "Every trained tensor changes.",
    name="moves",
    tolerance=0,
    reason="tensors are counted",
    meaning="a tensor that should be trained gets no gradient or no update",
    remedy="do not use results of this method",
)
def moves(subject: Subject) -> float:
    """Return how many trained tensors have not changed after some steps."""
    trained, before = trained_tensors(subject.trained.session.model), subject.trained.before
    return len(trained) - different_tensors(trained, {name: before[name] for name in trained})


@check(
    "No frozen tensor changes.",
    name="frozen",
    tolerance=0,
    reason="tensors are counted",
    meaning="training changes the base, and an adapter file does not contain these changes",
    remedy="do not use adapters of this method",
)
def frozen(subject: Subject) -> float:
    """Return how many frozen tensors have changed after some steps."""
    model = subject.trained.session.model
    trained = trained_tensors(model)
    before = {name: value for name, value in subject.trained.before.items() if name not in trained}
    return different_tensors(snapshot(model), before)
