"""The cells of a bench without their processes: the same modules, the same JSON; and made-up figures."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from typing import Any

from explora.core.bench.lessons import Learned, Point
from explora.core.bench.measurements import Cell, Measurement, MemoryParts
from explora.core.config.run_config import TrainRun

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


def learned(score: float, half: float = 0.01, **changes: Any) -> Learned:
    """Make up an accuracy that is equally good after equal steps and after equal time."""
    point = Point(steps=40, seconds=8.0, score=score, low=score - half, high=score + half)
    values = {
        "metric": "accuracy",
        "higher_is_better": True,
        "examples": 100,
        "equal_steps": point,
        "equal_time": point,
        "curve": (point,),
    }
    return Learned(**{**values, **changes})
