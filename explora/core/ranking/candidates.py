"""Find what can be ranked: the runs of a task among the names on a command line, with their records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from explora.core.base.configuration import CONFIG
from explora.core.base.find import WEIGHTS
from explora.core.config.concerns import DataConfig, RuntimeConfig
from explora.core.config.method import Method
from explora.core.config.run_config import TrainRun, all_settings, field_names, settings_of
from explora.core.config.setting import spelled
from explora.core.data.splits import find_split
from explora.core.runs.adapter import ADAPTER_FILE, Header, is_adapter, read_header
from explora.core.runs.assemble import FULL_HEADER, read_full_header
from explora.core.runs.record import RECORD_FILE, RunRecord, read_record
from explora.errors import ExploraError, Interrupted, UsageError

# Settings that the machine chooses are not compared, except the precision of the training.
OF_THE_MACHINE = {*field_names(RuntimeConfig)} - {"amp"}


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A name that is not ranked, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A run, an adapter, a model folder or a base.

    method: None for a base, and for a PEFT adapter until it is opened. run, result: from the record, if there
    is one. file_bytes: size of the file of trained weights.
    """

    name: str
    method: Method | None = None
    run: TrainRun | None = None
    result: Mapping[str, Any] = field(default_factory=dict)
    file_bytes: int | None = None

    @property
    def method_label(self) -> str:
        """Short name of the method; "none" for a base."""
        return self.method.label if self.method else "none"

    def settings(self) -> dict[str, str]:
        """Return the settings of the run, by option name and as option text; empty without a record.

        The random seed and the settings that the machine chose are left out.
        """
        if self.run is None:
            return {}
        known, values = all_settings(type(self.run.method)), settings_of(self.run)
        return {
            spelled(name): item.show(values[name])
            for name, item in known.items()
            if name != "seed" and name not in OF_THE_MACHINE
        }


def find_candidates(task: str, names: Iterable[str]) -> tuple[list[Candidate], list[LeftOut]]:
    """Return the candidates for a task, in order, and the other names, each with the reason."""
    candidates, left_out = list[Candidate](), list[LeftOut]()
    for name in dict.fromkeys(each.rstrip("/") or each for each in names):
        try:
            reason = _why_not(task, Path(name))
            if reason is None:
                candidates.append(_candidate(name))
                continue
        except Interrupted:
            raise
        except ExploraError as error:
            reason = error.message
        left_out.append(LeftOut(name=name, reason=reason))
    return candidates, left_out


def _why_not(task: str, path: Path) -> str | None:
    """Return why a path is not a candidate; None if it is one. A name that is not a path may be a base."""
    if not path.exists():
        return None
    if not path.is_dir():
        return "it is a file, not a run folder"
    if not any((path / name).is_file() for name in (ADAPTER_FILE, FULL_HEADER, RECORD_FILE, CONFIG)):
        return "it is not a run, an adapter or a model folder"
    header, record = _header(path), read_record(path)
    trained_for = header.task if header else record.run.task if record else task
    return None if trained_for == task else f"it was trained for {trained_for}, not for {task}"


def _candidate(name: str) -> Candidate:
    path = Path(name)
    if not path.is_dir():
        return Candidate(name=name)
    record = read_record(path)
    weights = path / ADAPTER_FILE if is_adapter(path) else path / WEIGHTS
    return Candidate(
        name=name,
        method=_method(path, record),
        run=record.run if record else None,
        result=record.result if record else {},
        file_bytes=weights.stat().st_size if weights.is_file() else None,
    )


def _method(path: Path, record: RunRecord | None) -> Method | None:
    header = _header(path)
    if header is not None:
        return header.method
    if record is not None:
        return record.run.method
    return None


def _header(path: Path) -> Header | None:
    return read_full_header(path) or (read_header(path) if (path / ADAPTER_FILE).is_file() else None)


def shared_data(candidates: Sequence[Candidate]) -> DataConfig:
    """Return the data settings that all recorded runs share; those of the sample data without a record.

    Raises UsageError that names two runs and their differences.
    """
    recorded = [each for each in candidates if each.run is not None]
    if not recorded:
        return DataConfig()
    first = recorded[0]
    assert first.run is not None
    for other in recorded[1:]:
        assert other.run is not None
        differing = [
            f"{spelled(name)} {_shown(first.run, name)} and {_shown(other.run, name)}"
            for name in field_names(DataConfig)
            if getattr(first.run.data, name) != getattr(other.run.data, name)
        ]
        if differing:
            raise UsageError(
                f"{first.name} and {other.name} were trained on different data: {', '.join(differing)}",
                "name the rows to score them on: --data FILE",
            )
    return first.run.data


def choose_data(candidates: Sequence[Candidate], asked: DataConfig | None) -> tuple[DataConfig, DataConfig]:
    """Return the data settings for scoring, those of the command if there are any, and those of training.

    Raises UsageError if the command names no data and the data of the runs differ.
    """
    if asked is None:
        shared = shared_data(candidates)
        return shared, shared
    recorded = [each.run.data for each in candidates if each.run is not None]
    trained_on = next((each for each in recorded if each.data == asked.data), None)
    return asked, trained_on or (recorded[0] if recorded else DataConfig())


def check_held_out(candidates: Sequence[Candidate], data: DataConfig, split: str | None) -> None:
    """Raise UsageError if the runs held out different rows of the file that they are scored on.

    The seed of a run chooses the held-out tenth of a single file.
    """
    runs = {each.name: each.run for each in candidates if each.run is not None and each.run.data == data}
    seeds = {run.training.seed: name for name, run in runs.items()}
    tasks = {run.task for run in runs.values()}
    if len(seeds) < 2 or all(find_split(task, data, split or "dev").whole for task in tasks):
        return
    (one, first), (other, second) = list(seeds.items())[:2]
    raise UsageError(
        f"{first} (seed {one}) and {second} (seed {other}) held out different rows of {data.data}",
        "score them on rows that neither was trained on: --data FILE, and train with --dev FILE",
    )


def _shown(run: TrainRun, name: str) -> str:
    value = getattr(run.data, name)
    return "none" if value is None else str(value)
