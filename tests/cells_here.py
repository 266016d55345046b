"""The cells of a bench without their processes: the same modules, the same JSON; and made-up figures.

The matrix peak is measured on one small product, because no test depends on its value.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from typing import Any

from explora.core.bench import device
from explora.core.bench.lessons import Learned, Point
from explora.core.bench.measurements import Cell, Measurement, MemoryParts
from explora.core.config.run_config import TrainRun
from explora.core.tasks.metrics import Score, accuracy
from explora.core.tasks.trivial import Trivial

device.MATRIX, device.PEAK_SECONDS = (8, 8, 8), 0.0

PARTS = MemoryParts(runtime=200, weights=300, gradients=10, optimizer=20, activations=150, temporaries=50)
ENTRY = {
    "cell_process": "measure",
    "peer_reference": "export",
    "peer_process": "measure",
    "lesson_process": "learn",
}


def ask_here(
    module: str, request: Mapping[str, Any], environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Do in this process what the process of a cell does."""
    entry = getattr(importlib.import_module(module), ENTRY[module.rpartition(".")[2]])
    result: dict[str, Any] = json.loads(json.dumps(entry(json.loads(json.dumps(request)))))
    return result


def cell(run: TrainRun, **changes: Any) -> Cell:
    """Ask for three steps of a run."""
    return Cell(**{"run": run, "length": None, "steps": 3, "seconds": 0.0, **changes})


def found(tokens_per_second: float = 100.0, memory: int = 1000, **changes: Any) -> Measurement:
    """Make up what a cell found: 8 rows and 200 tokens in 2 steps."""
    values = {
        "steps": 2,
        "examples": 8,
        "tokens": 200,
        "seconds": 200 / tokens_per_second,
        "forward": 0.5,
        "backward": 0.75,
        "optimizer": 0.25,
        "flop": 1e9,
        "matrix_peak": 1e10,
        "peak_memory_bytes": memory,
        "baseline_memory_bytes": 200,
        "parts": PARTS,
        "trainable": 10,
        "total": 1000,
        "checkpoint_bytes": 40,
        "first_loss": 0.7,
        "rows": "",
    }
    return Measurement(**{**values, **changes})


def point(score: Score, steps: int = 40, seconds: float = 8.0) -> Point:
    """Make up the score after some steps."""
    low, high = score.interval()
    return Point(steps=steps, seconds=seconds, score=score.value, low=low, high=high, statistics=score)


def right(hits: int, rows: int = 200, first: int = 0) -> Score:
    """Return the accuracy of `hits` right answers to `rows` rows, in a row from number `first` on."""
    return accuracy([1 if 0 <= (row - first) % rows < hits else 0 for row in range(rows)], [1] * rows)


def learned(score: Score, untrained: Score | None = None, **changes: Any) -> Learned:
    """Make up what was learned of an accuracy in 40 steps and 8 seconds; half was right before."""
    values = {
        "metric": "accuracy",
        "higher_is_better": True,
        "examples": len(score.order),
        "trivial": Trivial(0.55, "always yes"),
        "steps": 40,
        "seconds": (2.0, 4.0, 8.0),
        "curve": (point(untrained or right(100), 0, 0.0), point(score)),
    }
    return Learned(**{**values, **changes})
