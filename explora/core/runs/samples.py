"""Read how a run continued one text: at its start, in its middle and at its best step.

The samples are in samples.jsonl in the run folder; `sampler` records them. This module does not load torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

SAMPLES_FILE = "samples.jsonl"
START, MIDDLE, BEST = "start", "middle", "best"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A continuation of `prompt` by the model after `step` steps. `moment` is START, MIDDLE or BEST."""

    moment: str
    step: int
    prompt: str
    text: str


def read_samples(folder: Path) -> list[Sample]:
    """Return the latest sample of each moment from a run folder; empty if there are none."""
    file = folder / SAMPLES_FILE
    if not file.is_file():
        return []
    found = [Sample(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]
    return list({each.moment: each for each in found}.values())
