"""Checks of options that save memory or time in training, against the same step without them."""

from __future__ import annotations

from explora.core.checking.check import check
from explora.core.checking.differences import largest_difference
from explora.core.checking.subject import ROWS, TRAINED_STEPS, Subject, with_losses
from explora.core.config.values import Blocks

ODD_ROWS = range(5)  # batches of 2, 2 and 1: the mean of their means differs from the mean of all rows


@check(
    "Gradient accumulation gives the gradient of one large batch.",
    name="accumulation",
    tolerance=1e-4,
    reason="fp32 sums in another order differ by about 1e-6",
    meaning="a run with --accumulate learns differently from one with a larger --batch-size",
    remedy="train without --accumulate",
)
def accumulation(subject: Subject) -> float:
    """Return the largest relative difference of a gradient."""
    trial = subject.trial({"batch_size": 2, "accumulate": 3})
    plain = trial.plain_gradients_of(ODD_ROWS)
    return largest_difference(trial.gradients_of(ODD_ROWS), plain)


@check(
    "Gradient checkpointing gives the same bits, also with dropout.",
    name="checkpointing",
    tolerance=0,
    reason="the same operations run in the same order",
    meaning="a run with --grad-checkpoint learns from gradients that are not those of its loss",
    remedy="train without --grad-checkpoint",
)
def checkpointing(subject: Subject) -> float:
    """Return the largest relative difference of a loss or of a trained tensor."""
    trial = subject.trial({**subject.noisy(), "grad_checkpoint": True})
    recomputed = with_losses(trial.train(TRAINED_STEPS), trial.model)
    return largest_difference(recomputed, subject.uninterrupted)


@check(
    "Training from cached features of the frozen blocks gives the same gradient as training from the text.",
    name="cache",
    tolerance=1e-4,
    reason="features are computed in other batches, and fp32 sums in another order differ by about 1e-6",
    meaning="a run with frozen blocks learns from wrong features",
    remedy="train with --feature-cache off",
)
def caching(subject: Subject) -> float | None:
    """Return the largest relative difference of a gradient.

    None for a method that trains the first block with any settings, and if the disk is full.
    """
    trial = subject.trial({"max_steps": len(ROWS), **_on_the_last_block(subject)})
    training = trial.training
    training.plan_features()
    for _ in training.keep_features():
        pass
    if training.examples[0].features is None:
        return None
    plain = trial.plain_gradients_of(ODD_ROWS)
    return largest_difference(trial.gradients_of(ODD_ROWS), plain)


def _on_the_last_block(subject: Subject) -> dict[str, Blocks]:
    if not subject.has_setting("layers"):
        return {}
    return {"layers": Blocks([subject.base.shape.n_layer - 1])}
