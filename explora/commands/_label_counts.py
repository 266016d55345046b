"""Show how many training rows each class has, and warn if one class has nearly all of them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from explora import console

if TYPE_CHECKING:
    from explora.core.runs.running import Running

MOST_SHOWN = 12
DOMINANT = 0.95  # a share of the rows beyond which accuracy says little


def show_label_counts(running: Running) -> None:
    """Show the number of training rows of each class, and warn if one class has nearly all of them."""
    labels = running.session.task.labels
    if not labels:
        return
    counts = Counter(labels[example.label] for example in running.train.examples if example.label is not None)
    shown = [f"{label!r}: {counts[label]:,}" for label in labels[:MOST_SHOWN]]
    more = f", and {len(labels) - MOST_SHOWN} more classes" if len(labels) > MOST_SHOWN else ""
    console.note(f"training labels: {', '.join(shown)}{more}")
    label, count = counts.most_common(1)[0]
    if count > DOMINANT * counts.total():
        console.warn(
            f"{count / counts.total():.1%} of the training rows have the label {label!r}: always answering "
            "it gives a high accuracy. Compare macro_f1, or add rows of the other classes"
        )
