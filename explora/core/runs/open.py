"""Open a run, an adapter, a model folder or a base for evaluation and generation."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from explora.core.base.configuration import CONFIG, class_names
from explora.core.base.find import Base, base_tokenizer, open_base
from explora.core.base.weights import base_digest, head_classes
from explora.core.config.concerns import EncodingConfig, RuntimeConfig, TrainingConfig
from explora.core.config.method import Method
from explora.core.config.precedence import resolve
from explora.core.config.registry import EMBEDDED, FULL_METHOD, MODELS, method_class, task_row
from explora.core.config.run_config import TrainRun
from explora.core.files import whole_folder
from explora.core.runs.adapter import (
    CONFIG_FILE,
    Header,
    check_not_inside,
    is_adapter,
    read_adapter,
)
from explora.core.runs.assemble import (
    FULL_HEADER,
    Session,
    SessionParts,
    assemble,
    insert_adapter,
    make_task,
    read_full_header,
)
from explora.core.runs.foreign_adapter import ForeignAdapter, insert_foreign, read_foreign
from explora.core.runs.record import read_record
from explora.core.runtime.resolve import DTYPES
from explora.core.training.checkpoint import trained_tensors
from explora.errors import AdapterError, UsageError, WeightsError


def default_source(task: str) -> Path | None:
    """Return runs/<task> if it has an adapter or a trained model, else None."""
    folder = Path("runs") / task
    return folder if is_adapter(folder) or (folder / FULL_HEADER).is_file() else None


def open_run(
    task_name: str,
    source: str | None,
    *,
    model: str | None,
    tokenizer: str | None,
    runtime: RuntimeConfig,
    encoding: Mapping[str, Any] | None = None,
) -> Session:
    """Open a run folder, a PEFT adapter, a model folder or a base for evaluation and generation.

    `source` defaults to runs/<task> if that exists, else to the base `model`. The base may be a run for
    another task; its head is then dropped. `encoding` holds settings by field name. Raises AdapterError if an
    adapter was trained for another task, on another base, or with another template or other label words.
    """
    folder = whole_folder(Path(source)) if source is not None else default_source(task_name)
    if folder is not None and is_adapter(folder):
        return _open_adapter(task_name, folder, model, tokenizer, runtime, encoding or {})
    if folder is not None and not (folder / FULL_HEADER).is_file() and read_record(folder) is not None:
        raise AdapterError(
            f"{folder} has no trained weights: the run stopped before its first dev score",
            f"explora train {task_name} -o {folder} --resume",
        )
    if folder is not None and source not in (EMBEDDED, *MODELS) and not (folder / CONFIG).is_file():
        check_not_inside(folder)
    if folder is None:
        base = open_base(model or EMBEDDED)
        header = _full_header(base)
        header = header if header and header.task == task_name else None
    else:
        base = open_base(source or str(folder))  # ./gpt2 is a folder, gpt2 the name of a base
        header = _full_header(base)
    return _open_model(task_name, base, header, tokenizer, runtime, encoding or {})


def _open_model(
    task_name: str,
    base: Base,
    header: Header | None,
    tokenizer_folder: str | None,
    runtime: RuntimeConfig,
    asked: Mapping[str, Any],
) -> Session:
    """Open a whole model; `header` describes what it was trained for, None for a base."""
    encoding = _encoding(header, task_name, asked, base.name)
    tokenizer = base_tokenizer(base, tokenizer_folder)
    method = header.method if header else method_class(FULL_METHOD)()
    labels = header.labels if header else _foreign_labels(base, task_name)
    seed = _seed(_recorded(base.folder) if header and base.folder else None)
    task = make_task(task_name, tokenizer, encoding, method, base.shape.n_positions, seed, labels)
    parts = SessionParts(
        task=task,
        task_name=task_name,
        tokenizer=tokenizer,
        base=base,
        method=method,
        encoding=encoding,
        header=header,
        label=base.label,
        source=base.folder,
    )
    session = assemble(parts, runtime, dtype=DTYPES[runtime.amp], fresh_head=False)
    if session.model.score is None and task.head_classes() is not None:
        raise AdapterError(
            f"{base.name} has no classification head, which {task_name} needs",
            f"train one: explora train {task_name}",
        )
    session.model.eval()
    return session


def _foreign_labels(base: Base, task_name: str) -> tuple[str, ...]:
    """Return the labels of a model that explora did not train, empty if the task does not use its head."""
    if not task_row(task_name).own_head or base.folder is None:
        return ()
    classes = head_classes(base)
    return class_names(base.config, classes, base.label) if classes else ()


def _full_header(base: Base) -> Header | None:
    return read_full_header(base.folder) if base.folder else None


def _open_adapter(
    task_name: str,
    folder: Path,
    model: str | None,
    tokenizer_folder: str | None,
    runtime: RuntimeConfig,
    asked: Mapping[str, Any],
) -> Session:
    tensors, header = read_adapter(folder)
    run = _recorded(folder)
    # peft drops the header when it saves the adapter, but the record of the run stays
    encoding = _encoding(header or run, task_name, asked, str(folder))
    base = open_base(model) if model else _own_base(folder, header, run)
    if header and base_digest(base) != header.base_digest:
        raise AdapterError(
            f"{folder} was trained on another base than {base.label}",
            "name that base: --model NAME|FOLDER (its weights must be exactly the same)",
        )
    described = header or read_foreign(folder, tensors, base)
    method, labels = described.method, described.labels
    tokenizer = base_tokenizer(base, tokenizer_folder or (run.tokenizer if run else None))
    seed = _seed(run)
    task = make_task(task_name, tokenizer, encoding, method, base.shape.n_positions, seed, labels)
    if task.head_classes() == 0:
        raise AdapterError(
            f"{folder} has no score head, which {task_name} needs", f"explora train {task_name}"
        )
    _check_fit(method, base, folder)
    parts = SessionParts(
        task=task,
        task_name=task_name,
        tokenizer=tokenizer,
        base=base,
        method=method,
        encoding=encoding,
        header=header,
        label=f"{folder} on {base.label}",
        source=folder,
    )
    session = assemble(parts, runtime, dtype=DTYPES[runtime.amp])
    if isinstance(described, ForeignAdapter):
        insert_foreign(session.model, described)
    else:
        insert_adapter(session.model, folder, method)
    if (header is None or header.best_step > 0) and method.is_untrained(trained_tensors(session.model)):
        raise AdapterError(
            f"{folder}: the adapter does not change the base: {method.untrained}", "was it ever trained?"
        )
    session.model.eval()
    return session


def _own_base(folder: Path, header: Header | None, run: TrainRun | None) -> Base:
    """Open the base that an adapter was trained on. Raises AdapterError if it has moved."""
    name = base_name(folder, header, run)
    try:
        return open_base(name)
    except WeightsError as error:
        raise AdapterError(
            f"{folder} was trained on the base {name}, which cannot be opened: {error.message}",
            "name the base: --model NAME|FOLDER",
        ) from None


def _check_fit(method: Method, base: Base, folder: Path) -> None:
    try:
        method.check_fit(base.shape)
    except UsageError as error:
        raise AdapterError(
            f"{folder} does not fit {base.label}: {error.message}", "name its base: --model NAME|FOLDER"
        ) from None


def _encoding(
    trained: Header | TrainRun | None, task: str, asked: Mapping[str, Any], where: str
) -> EncodingConfig:
    """Return the stored encoding of rows, with the maximum length that was asked for.

    Without a stored encoding, the options decide. Raises AdapterError if an option contradicts the stored
    value.
    """
    alone = resolve(task, asked)[0].encoding
    if trained is None:
        return alone
    if trained.task != task:
        raise AdapterError(
            f"{where} was trained for {trained.task}, not for {task}", f"explora eval {trained.task} {where}"
        )
    for name in ("template", "label_words"):
        stored = getattr(trained.encoding, name)
        if asked.get(name, stored) != stored:
            raise AdapterError(
                f"{where} was trained with the {name.replace('_', ' ')} {stored!r}, not {asked[name]!r}",
                "leave the option out: its value is stored with the adapter",
            )
    return dataclasses.replace(trained.encoding, **asked)


def _recorded(folder: Path) -> TrainRun | None:
    record = read_record(folder)
    return record.run if record else None


def base_name(folder: Path, header: Header | None, run: TrainRun | None) -> str:
    """Return the name of an adapter's base: from its header, its run's record, or PEFT's configuration."""
    if header is not None and header.base:
        return header.base
    if run is not None:
        return run.model
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        name, revision = config.get("base_model_name_or_path"), config.get("revision")
    except (OSError, ValueError, AttributeError):
        name, revision = None, None
    if not isinstance(name, str) or not name:
        raise AdapterError(f"{folder} does not name its base", "name it: --model NAME|FOLDER")
    if revision not in (None, "", "main"):
        raise AdapterError(
            f"{folder} names the revision {revision!r} of its base {name}; explora fetches only the main one",
            f"hf download {name} --revision {revision} --local-dir base, then add --model base",
        )
    return name


def _seed(run: TrainRun | None) -> int:
    """Return the seed that chooses the dev rows of a single file: that of the run, or the default."""
    return (run.training if run else TrainingConfig()).seed
