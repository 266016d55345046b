"""Read training runs for a report: their records, logs and samples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from explora.core.estimate.memory import Memory
from explora.core.runs.record import METRICS_FILE, RunRecord
from explora.core.runs.samples import Sample, read_samples

Points = tuple[tuple[int, float], ...]  # (step, value)
OF_SCORES = ("step", "best")  # the keys of a line in the log beside that of a dev score


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """A finished run.

    varied: the settings that differ between the runs of a sweep, as text by name; losses, dev: from the log;
    memory: predicted, None if the data could not be read.
    """

    name: str
    record: RunRecord
    varied: Mapping[str, str]
    losses: Points
    dev: Points
    memory: Memory | None
    samples: Sequence[Sample] = ()

    @property
    def result(self) -> Mapping[str, Any]:
        """The recorded result."""
        return self.record.result

    @property
    def best_dev(self) -> float:
        """Dev score of the best step, whose weights are saved."""
        return dict(self.dev)[self.result["best_step"]]

    def settings(self, *without: str) -> str:
        """Return the varied settings in words, except the random seed and those in `without`."""
        left_out = ("seed", *without)
        return ", ".join(
            text if name == "method" else f"{name.replace('_', ' ')} {text}"
            for name, text in self.varied.items()
            if name not in left_out
        )


def read_trained_run(
    folder: Path,
    record: RunRecord,
    memory: Memory | None,
    *,
    name: str = "",
    varied: Mapping[str, str] | None = None,
) -> TrainedRun:
    """Read the run in a folder; its name is by default the folder's."""
    text = (folder / METRICS_FILE).read_text(encoding="utf-8")
    losses, dev = list[tuple[int, float]](), list[tuple[int, float]]()
    for line in map(json.loads, text.splitlines()):
        if line.get("loss") is not None and "best" not in line:
            losses.append((line["step"], line["loss"]))
        elif "best" in line:
            dev += [(line["step"], value) for key, value in line.items() if _is_score(key, value)]
    return TrainedRun(
        name=name or str(folder),
        record=record,
        varied=varied or {},
        losses=tuple(losses),
        dev=tuple(dev),
        memory=memory,
        samples=read_samples(folder),
    )


def _is_score(key: str, value: float | None) -> bool:
    return key not in OF_SCORES and value is not None
