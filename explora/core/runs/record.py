"""Read and write the record of a run: run.json (settings, identity, result, machine) and metrics.jsonl."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from explora.core.config.concerns import TrainingConfig
from explora.core.config.plain_json import from_plain, to_plain
from explora.core.config.run_config import TrainRun, settings_in
from explora.core.files import append_line, write_atomically
from explora.core.runs.identity import Identity
from explora.errors import AdapterError, UsageError

RECORD_FILE = "run.json"
METRICS_FILE = "metrics.jsonl"


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A finished part of a run that was continued with more steps: its length and its result."""

    training: TrainingConfig
    result: Mapping[str, Any]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Phase:
        """Build a phase from its JSON in run.json."""
        training = from_plain(TrainingConfig, value["training"], "earlier_phases.training")
        return cls(training=training, result=value["result"])


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The trained weights that a run started from: their folder, and the SHA-256 of their file."""

    path: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run and its result; the result is empty until the run has finished.

    `identity` describes the inputs of the run, None in records of earlier versions. `origin` are the weights
    that it started from, None for a base. `earlier_phases` are the parts before the run was made longer.
    """

    run: TrainRun
    result: Mapping[str, Any]
    machine: Mapping[str, Any]
    identity: Identity | None = None
    origin: Origin | None = None
    earlier_phases: tuple[Phase, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether the run has a result."""
        return bool(self.result)


def write_record(folder: Path, record: RunRecord) -> None:
    """Write run.json atomically."""
    value = {
        "config": record.run.to_json(),
        "identity": None if record.identity is None else record.identity.to_json(),
        "origin": None if record.origin is None else asdict(record.origin),
        "earlier_phases": [
            {"training": to_plain(phase.training), "result": finite(phase.result)}
            for phase in record.earlier_phases
        ],
        "result": finite(record.result),
        "machine": finite(record.machine),
    }
    write_atomically(folder / RECORD_FILE, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON cannot express, by None."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_record(folder: Path) -> RunRecord | None:
    """Return the record of a run folder, or None if it has none. Raises AdapterError for a damaged record."""
    file = folder / RECORD_FILE
    if not file.is_file():
        return None
    try:
        return _read(file)
    except UsageError as error:
        raise AdapterError(
            f"the record of the run is damaged: {error.message}",
            f"train again in another folder: -o {folder}-2; to use only its weights, remove {file} and "
            "name their base: --model NAME|FOLDER",
        ) from None


def read_config(file: Path) -> tuple[str, dict[str, Any]]:
    """Return the task of a `--config` file and, by field name, the settings in it.

    The file is a run.json, its `config` object alone, or a part of that object. Raises UsageError.
    """
    if file.is_dir():
        file = file / RECORD_FILE
    if not file.is_file():
        raise UsageError(f"--config {file}: no such file", "use the run.json of a run folder")
    value = _read_json(file)
    return _parse_run(file, value).task, settings_in(value.get("config", value))


def read_identity(file: Path) -> Identity | None:
    """Return the identity of the inputs of a `--config` file's run, or None if it has no record of it."""
    file = file / RECORD_FILE if file.is_dir() else file
    return _parse_identity(file, _read_json(file))


def _read(file: Path) -> RunRecord:
    value = _read_json(file)
    return RunRecord(
        run=_parse_run(file, value),
        result=value.get("result", {}),
        machine=value.get("machine", {}),
        identity=_parse_identity(file, value),
        origin=Origin(**value["origin"]) if value.get("origin") else None,
        earlier_phases=tuple(map(Phase.from_json, value.get("earlier_phases", ()))),
    )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise UsageError(f"{file} is not JSON: {error}", "give the run.json of a run folder") from None
    if not isinstance(value, dict):
        raise UsageError(f"{file} should be a JSON object", "give the run.json of a run folder")
    return value


def _parse_run(file: Path, value: Mapping[str, Any]) -> TrainRun:
    try:
        return TrainRun.from_json(value.get("config", value))
    except UsageError as error:
        raise UsageError(f"{file}: {error.message}", error.hint) from None


def _parse_identity(file: Path, value: Mapping[str, Any]) -> Identity | None:
    found = value.get("identity")
    try:
        return None if found is None else Identity.from_json(found)
    except (KeyError, TypeError):
        raise UsageError(f"{file}: the identity is damaged", "start again with --overwrite") from None


def read_losses(folder: Path) -> list[float]:
    """Return the loss of each step from metrics.jsonl, without losses that were not finite."""
    losses = [line.get("loss") for line in _read_metrics(folder)]
    return [float(loss) for loss in losses if loss is not None]


def read_dev_scores(folder: Path) -> list[tuple[int, float]]:
    """Return step and dev score of each evaluation from metrics.jsonl."""
    return [(line["step"], _score_of(line)) for line in _read_metrics(folder) if "best" in line]


def read_best_dev_score(folder: Path) -> float | None:
    """Return the dev score of the step that was kept, from metrics.jsonl; None without evaluations."""
    best = [_score_of(line) for line in _read_metrics(folder) if line.get("best")]
    return best[-1] if best else None


def _read_metrics(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / METRICS_FILE).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _score_of(line: Mapping[str, Any]) -> float:
    return next(float(value) for name, value in line.items() if name not in ("step", "best"))


class MetricsLog:
    """The log of a run, metrics.jsonl, with one line for each step and each evaluation."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def add(self, values: Mapping[str, Any]) -> None:
        """Append one line."""
        append_line(self.file, json.dumps(finite(values), allow_nan=False))


def open_metrics(folder: Path, step: int) -> MetricsLog:
    """Return the log of a run that continues after `step`, without the lines of later steps.

    A `step` of -1 removes all lines.
    """
    file = folder / METRICS_FILE
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    kept = [line for line in lines if _step(line) <= step]
    write_atomically(file, "".join(line + "\n" for line in kept))
    return MetricsLog(file)


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
