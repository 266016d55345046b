"""Start a run from the trained weights of another one: an adapter, a head or a whole model (`train --from`).

The new run has the same task, base, method and prompt. A whole model is its own base. Its head stays, so the
classes must be the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from explora.core.base.find import open_base
from explora.core.base.weights import base_digest
from explora.core.config.method import Method
from explora.core.config.run_config import TrainRun, field_names, settings_in, settings_of
from explora.core.config.setting import spelled
from explora.core.data.splits import find_split
from explora.core.files import whole_folder
from explora.core.runs.adapter import ADAPTER_FILE, Header, is_adapter, read_adapter, read_header
from explora.core.runs.assemble import Session, read_full_header, restore_trained
from explora.core.runs.foreign_adapter import ForeignAdapter, insert_foreign, read_foreign
from explora.core.runs.open import base_name
from explora.core.runs.paths import with_absolute_data
from explora.core.runs.record import Origin, read_record
from explora.errors import AdapterError, DataError, UsageError

PROMPT = ("template", "label_words")
# Without --data, the rows are those of the first run. Its seed chose the dev rows among them.
DATA = ("data", "dev", "columns", "format", "encoding", "skip_bad")


@dataclass(frozen=True, kw_only=True)
class Start:
    """Trained weights to start from.

    `model` is their base, by name or folder. `foreign` is set for an adapter that PEFT wrote, `header` for
    all others. `run` is the run that trained them, None without a record.
    """

    folder: Path
    model: str
    method: Method
    labels: tuple[str, ...]
    header: Header | None
    foreign: ForeignAdapter | None
    run: TrainRun | None

    @property
    def origin(self) -> Origin:
        """The path and digest that run.json records."""
        if self.method.trains_base:
            digest = base_digest(open_base(self.model))
        else:
            with (self.folder / ADAPTER_FILE).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Origin(path=str(self.folder.absolute()), digest=digest)


def read_start(task: str, source: str, model: str | None) -> Start:
    """Read which trained weights a folder has; `model` is their base if it has moved.

    Raises AdapterError for weights of another task, and if there are none.
    """
    folder = whole_folder(Path(source).expanduser())
    record = read_record(folder)
    run = record.run if record else None
    header = read_full_header(folder)
    foreign = None
    if header is not None:
        base = str(folder.absolute())
    elif is_adapter(folder):
        header = read_header(folder)
        base = model or base_name(folder, header, run)
        if header is None:
            foreign = read_foreign(folder, read_adapter(folder)[0], open_base(base))
    else:
        raise AdapterError(
            f"--from {source}: this folder has no trained weights",
            "name a run folder with a dev score, or a PEFT adapter; use --model to start from a base",
        )
    if header is not None and header.task != task:
        raise AdapterError(
            f"--from {source}: it was trained for {header.task}, not for {task}",
            f"merge it, and start from the merged base: explora merge-lora {source} -o merged",
        )
    described = header or foreign
    assert described is not None
    return Start(
        folder=folder,
        model=base,
        method=described.method,
        labels=described.labels,
        header=header,
        foreign=foreign,
        run=run,
    )


def inherit(task: str, options: Mapping[str, Any], from_file: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a config file, with those that a run takes from its start (`from_run`).

    Without `from_run` the settings do not change. Options override all of them.
    """
    source = options.get("from_run", from_file.get("from_run"))
    if source is None:
        return dict(from_file)
    start = read_start(task, source, options.get("model"))
    fixed: dict[str, Any] = {"model": start.model, **_of_method(start.method)}
    encoding = start.header.encoding if start.header else start.run.encoding if start.run else None
    if encoding is not None:
        fixed |= {name: getattr(encoding, name) for name in (*PROMPT, "max_length")}
    if start.run is None:
        return {**from_file, **fixed}
    recorded = settings_in(start.run.to_json())
    if not start.method.trains_base:
        fixed["tokenizer"] = recorded["tokenizer"]
    same_data = "data" not in options and "data" not in from_file
    kept = {name: recorded[name] for name in (*(DATA if same_data else ()), "seed")}
    return {**kept, **from_file, **fixed}


def _of_method(method: Method) -> dict[str, Any]:
    return {"method": method.name, **{name: getattr(method, name) for name in field_names(type(method))}}


def check_start(start: Start, run: TrainRun) -> None:
    """Raise UsageError for settings of a run that contradict the weights from which it starts."""
    wanted: dict[str, Any] = _of_method(start.method)
    if start.header is not None:
        wanted |= {name: getattr(start.header.encoding, name) for name in PROMPT}
    if start.method.trains_base:
        wanted["model"] = start.model
    found = settings_of(run)
    for name, value in wanted.items():
        if name not in found or found[name] != value:
            raise UsageError(
                f"--from {start.folder}: it has {spelled(name)} {value}, not {found.get(name)}",
                "leave the option out: its value is stored with the weights",
            )


def has_seen_dev_rows(start: Start, run: TrainRun) -> bool:
    """Return whether the start was trained on rows that a run uses for dev scores.

    This happens if the run divides the file that the start was trained on, and the start did not divide it by
    the same seed.
    """
    if start.run is None:
        return False
    try:
        dev = find_split(run.task, with_absolute_data(run.data), "dev")
        trained_on = find_split(run.task, with_absolute_data(start.run.data), "train")
    except DataError:  # the old file may be gone; a missing new file is reported when it is read
        return False
    same_division = not trained_on.whole and start.run.training.seed == run.training.seed
    return not dev.whole and dev.file == trained_on.file and not same_division


def load_start(session: Session, start: Start) -> None:
    """Load the trained weights into the model of a session with the same base and method.

    Raises AdapterError for another base and for other classes.
    """
    header, labels = start.header, session.task.labels
    if header and not start.method.trains_base and base_digest(session.base) != header.base_digest:
        raise AdapterError(
            f"--from {start.folder}: it was trained on another base than {session.base.label}",
            "name that base: --model NAME|FOLDER (its weights must be exactly the same)",
        )
    other = labels != start.labels if header else len(labels) != len(start.labels)
    if session.model.score is not None and other:
        raise AdapterError(
            f"--from {start.folder}: its head has the classes ({', '.join(start.labels)}), "
            f"the data has ({', '.join(labels)})",
            f"give data with these classes, or start with a new head: {_with_new_head(start)}",
        )
    if start.foreign is not None:
        insert_foreign(session.model, dataclasses.replace(start.foreign, base=session.base))
    else:
        restore_trained(session, start.folder)


def _with_new_head(start: Start) -> str:
    if start.method.trains_base:
        return f"--model {start.folder} instead of --from"
    return f"explora merge-lora {start.folder} -o merged, then --model merged"
