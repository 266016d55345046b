"""A training with a clock on each epoch, evaluations left out.

Reads {"task", "settings"} as JSON on stdin; writes tokens and seconds of every epoch as one object on stdout.
What frozen blocks compute once, before the first step, counts as the first epoch's.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import explora
from explora.core.training.events import FeaturesDone, StepDone


def measure(request: Mapping[str, Any]) -> dict[str, Any]:
    """Train, and return lists with one number an epoch."""
    run = explora.configure(request["task"], request["settings"])
    tokens, seconds = [0] * run.training.epochs, [0.0] * run.training.epochs
    with tempfile.TemporaryDirectory() as scratch:
        events, before = explora.train(run, Path(scratch) / "run"), time.perf_counter()
        for event in events:
            now = time.perf_counter()
            if isinstance(event, FeaturesDone):
                seconds[0] += now - before
            elif isinstance(event, StepDone):
                tokens[event.epoch] += event.tokens
                seconds[event.epoch] += now - before
            before = now
    return {"tokens": tokens, "seconds": seconds}


if __name__ == "__main__":
    print(json.dumps(measure(json.load(sys.stdin))))
