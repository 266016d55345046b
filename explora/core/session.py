"""The only place that assembles base, method, adapter and task into something that runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from explora.core.adapters import (
    CONFIG_FILE,
    PREFIX,
    Header,
    foreign_method,
    from_peft,
    is_adapter,
    read_adapter,
    write_adapter,
)
from explora.core.checkpoint import trained_tensors
from explora.core.config import (
    EncodingConfig,
    MethodConfig,
    RuntimeConfig,
    TrainingConfig,
    TrainRun,
    resolve,
)
from explora.core.model import GPT2
from explora.core.registry import EMBEDDED, METHODS, TASKS, load_implementation
from explora.core.runtime import DTYPES, set_seed
from explora.core.sources import read_config
from explora.core.tasks.contract import Setting, Split, Task
from explora.core.tokenizer import Tokenizer, load_tokenizer
from explora.core.weights import Base, base_digest, base_tokenizer, load_model, open_base, write_model
from explora.errors import AdapterError, UsageError

FULL_HEADER = "explora.json"


@dataclass(kw_only=True)
class Session:
    """A model ready to train or to answer, with the task, tokenizer and base it belongs to.

    `header` says what was trained, None for a base alone; `label` is how to call it in output.
    """

    model: GPT2
    task: Task
    task_name: str
    tokenizer: Tokenizer
    base: Base
    method: MethodConfig
    encoding: EncodingConfig
    header: Header | None
    label: str


def method_module(method: MethodConfig) -> ModuleType:
    """Return the module that implements a method."""
    module: ModuleType = load_implementation(METHODS[method.method].implementation)
    return module


def make_task(
    name: str,
    tokenizer: Tokenizer,
    encoding: EncodingConfig,
    method: str,
    context: int,
    seed: int,
    labels: tuple[str, ...] = (),
) -> Task:
    """Build a task of the registry."""
    setting = Setting(
        tokenizer=tokenizer, encoding=encoding, method=method, context=context, seed=seed, labels=labels
    )
    task: Task = load_implementation(TASKS[name].implementation)(setting)
    return task


def open_for_training(run: TrainRun, tokenizer: Tokenizer | None = None) -> tuple[Session, Split, Split]:
    """Return a session at step 0 of a run whose runtime is resolved, and its train and dev splits.

    `tokenizer` is the one trained for a base from scratch. The data is read before the weights, so that a
    bad row costs no waiting.
    """
    base = _scratch(run) if run.from_scratch else open_base(run.model)
    tokenizer = tokenizer or base_tokenizer(base, run.tokenizer)
    set_seed(run.training.seed)
    task = make_task(
        run.task, tokenizer, run.encoding, run.method.method, base.shape.n_positions, run.training.seed
    )
    train, dev = task.load(run.data, "train"), task.load(run.data, "dev")
    if (beyond := _layers_beyond(run.method, base)) is not None:
        raise UsageError(f"--layers names {beyond}")
    model = _load(base, run)
    _add_head(model, task)
    method_module(run.method).apply(model, run.method)
    header = Header(
        task=run.task,
        method=run.method,
        base="" if base.folder is not None and Path(run.model).exists() else base.name,
        base_digest=base_digest(base),
        encoding=run.encoding,
        labels=task.labels,
    )
    session = Session(
        model=model,
        task=task,
        task_name=run.task,
        tokenizer=tokenizer,
        base=base,
        method=run.method,
        encoding=run.encoding,
        header=header,
        label=base.label,
    )
    return session, train, dev


def _scratch(run: TrainRun) -> Base:
    assert run.from_scratch is not None
    return Base(name="from-scratch", folder=None, shape=run.from_scratch, label="from scratch")


def _layers_beyond(method: MethodConfig, base: Base) -> str | None:
    """Say which blocks a method wants that the base does not have; None where it has them all."""
    if method.layers is None or method.layers[1] < base.shape.n_layer:
        return None
    return (
        f"blocks {method.layers[0]}-{method.layers[1]} of a base that has blocks 0-{base.shape.n_layer - 1}"
    )


def _load(base: Base, run: TrainRun) -> GPT2:
    """Load the weights: frozen ones in the compute dtype, those that will be trained in fp32."""
    compute = DTYPES[run.runtime.amp]
    stored = torch.float32 if METHODS[run.method.method].trains_base else compute
    device = torch.device(run.runtime.device)
    model = load_model(
        base,
        dtype=stored,
        device=device,
        dropout=run.training.dropout,
        seed=run.training.seed if run.from_scratch else 0,
    )
    model.compute_dtype = compute
    return model


def _add_head(model: GPT2, task: Task) -> None:
    classes = task.head_classes()
    if classes is None:
        return
    model.score = nn.Linear(model.shape.n_embd, classes, bias=False, device=model.device)
    nn.init.normal_(model.score.weight, std=0.02)


def save_trained(session: Session, folder: Path, best_step: int) -> None:
    """Write what was trained: a PEFT adapter, or a whole Hugging Face folder for full fine-tuning."""
    assert session.header is not None
    header = dataclasses.replace(session.header, best_step=best_step)
    if METHODS[session.method.method].trains_base:
        write_trained_model(session, folder)
        (folder / FULL_HEADER).write_text(header.to_json() + "\n", encoding="utf-8")
        return
    base = session.base.name or str(session.base.folder)
    write_adapter(folder, trained_tensors(session.model), header, session.model.shape, base)


def write_trained_model(session: Session, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write the session's plain (merged) model as a Hugging Face folder."""
    tensors = {name: value.detach().to(dtype) for name, value in session.model.state_dict().items()}
    labels = session.task.labels if session.model.score is not None else None
    write_model(folder, tensors, session.model.shape, session.tokenizer, labels=labels)


def restore_trained(session: Session, folder: Path) -> None:
    """Put what `save_trained` wrote back into the session's model."""
    if METHODS[session.method.method].trains_base:
        best = load_model(open_base(str(folder.resolve())), dtype=torch.float32, device=session.model.device)
        session.model.load_state_dict(best.state_dict())
        return
    _insert(session.model, folder, session.method)


def _insert(model: GPT2, folder: Path, method: MethodConfig) -> None:
    tensors, _ = read_adapter(folder)
    own = trained_tensors(model)
    with torch.no_grad():
        for name, value in from_peft(tensors, own, method, str(folder)).items():
            own[name].copy_(value)


def merge_in_memory(session: Session, dtype: torch.dtype) -> None:
    """Merge the adapters of a session opened in fp32 into its weights, then cast them to `dtype`."""
    method_module(session.method).merge(session.model)
    head = session.model.score
    session.model.to(dtype)
    if head is not None:
        head.float()
    session.model.compute_dtype = dtype


def default_source(task: str) -> Path | None:
    """Return runs/<task> where it holds a finished or running training, else None."""
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
    """Open a run folder, a PEFT adapter, a model folder or a base, ready to answer.

    `source` None is runs/<task> where that exists, else the base. `encoding` holds settings by field name;
    a template or label words other than those stored with the adapter are refused. Raises AdapterError for
    another task or base.
    """
    folder = Path(source) if source is not None else default_source(task_name)
    if folder is not None and is_adapter(folder):
        return _open_adapter(task_name, folder, model, tokenizer, runtime, encoding or {})
    name = source or (str(folder) if folder is not None else model or EMBEDDED)  # ./gpt2 is not gpt2
    return _open_model(task_name, name, tokenizer, runtime, encoding or {})


def _open_model(
    task_name: str,
    name: str,
    tokenizer_folder: str | None,
    runtime: RuntimeConfig,
    asked: Mapping[str, Any],
) -> Session:
    base = open_base(name)
    header = _full_header(base)
    encoding = _encoding(header, task_name, asked, name)
    tokenizer = base_tokenizer(base, tokenizer_folder)
    method = header.method if header else MethodConfig(method="full")
    network = load_model(base, dtype=DTYPES[runtime.amp], device=torch.device(runtime.device))
    network.compute_dtype = DTYPES[runtime.amp]
    labels = header.labels if header else base_labels(base)
    seed = _recorded_seed(base.folder if header else None)
    task = make_task(task_name, tokenizer, encoding, method.method, base.shape.n_positions, seed, labels)
    if (task.head_classes() is not None) != (network.score is not None):
        raise AdapterError(
            f"{name} has {'no' if network.score is None else 'a'} classification head, which {task_name} "
            f"{'needs' if network.score is None else 'does not use'}",
            f"train one: explora train {task_name}" if network.score is None else "is it for another task?",
        )
    return Session(
        model=network.eval(),
        task=task,
        task_name=task_name,
        tokenizer=tokenizer,
        base=base,
        method=method,
        encoding=encoding,
        header=header,
        label=base.label,
    )


def base_labels(base: Base) -> tuple[str, ...]:
    """Return the labels in a model folder's config.json (id2label), in order of their ids."""
    if base.folder is None:
        return ()
    names = read_config(base.folder / "config.json").get("id2label", {})
    return tuple(str(names[key]) for key in sorted(names, key=int))


def _full_header(base: Base) -> Header | None:
    file = base.folder / FULL_HEADER if base.folder else None
    if file is None or not file.is_file():
        return None
    return Header.from_json(file.read_text(encoding="utf-8"), str(file))


def _open_adapter(
    task_name: str,
    folder: Path,
    model: str | None,
    tokenizer_folder: str | None,
    runtime: RuntimeConfig,
    asked: Mapping[str, Any],
) -> Session:
    tensors, header = read_adapter(folder)
    encoding = _encoding(header, task_name, asked, str(folder))
    method = header.method if header else foreign_method(folder)
    name = model or (header.base if header else "") or _recorded_base(folder)
    base = open_base(name)
    if header and base_digest(base) != header.base_digest:
        raise AdapterError(
            f"{folder} was trained on another base than {base.label}",
            "name the right one: --model NAME|FOLDER (its weights must be the same bits)",
        )
    tokenizer = base_tokenizer(base, tokenizer_folder or _recorded_tokenizer(folder))
    labels = header.labels if header else _numbered_labels(tensors)
    seed = _recorded_seed(folder)
    task = make_task(task_name, tokenizer, encoding, method.method, base.shape.n_positions, seed, labels)
    if task.head_classes() == 0:
        raise AdapterError(
            f"{folder} has no score head, which {task_name} needs", f"explora train {task_name}"
        )
    if (beyond := _layers_beyond(method, base)) is not None:
        raise AdapterError(
            f"{folder} does not fit {base.label}: {beyond}", "name its base: --model NAME|FOLDER"
        )
    network = load_model(base, dtype=DTYPES[runtime.amp], device=torch.device(runtime.device))
    network.compute_dtype = DTYPES[runtime.amp]
    _add_head(network, task)
    method_module(method).apply(network, method)
    _insert(network, folder, method)
    _check_alive(network, folder, header)
    return Session(
        model=network.eval(),
        task=task,
        task_name=task_name,
        tokenizer=tokenizer,
        base=base,
        method=method,
        encoding=encoding,
        header=header,
        label=f"{folder} on {base.label}",
    )


def _numbered_labels(tensors: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
    """Return 0, 1, ... for the classes of a foreign adapter's head; none where it has no head."""
    score = tensors.get(PREFIX + "score.weight")
    return tuple(str(label) for label in range(0 if score is None or score.dim() != 2 else len(score)))


def _encoding(header: Header | None, task: str, asked: Mapping[str, Any], where: str) -> EncodingConfig:
    """Return how rows are encoded: as stored, but for the length; as asked where nothing is stored."""
    alone = resolve(task, asked)[0].encoding
    if header is None:
        return alone
    if header.task != task:
        raise AdapterError(
            f"{where} was trained for {header.task}, not for {task}", f"explora eval {header.task} {where}"
        )
    for name in ("template", "label_words"):
        stored = getattr(header.encoding, name)
        if asked.get(name, stored) != stored:
            raise AdapterError(
                f"{where} was trained with the {name.replace('_', ' ')} {stored!r}, not {asked[name]!r}",
                "leave the option out: it is stored with the adapter",
            )
    return dataclasses.replace(header.encoding, **asked)


def _check_alive(model: GPT2, folder: Path, header: Header | None) -> None:
    """Refuse a foreign adapter that does nothing: all its B are zero."""
    b = [value for name, value in model.named_parameters() if name.endswith("lora_B")]
    if header is None and b and not any(bool(value.any()) for value in b):
        raise AdapterError(
            f"{folder}: every lora_B is zero, so the adapter does nothing", "was it ever trained?"
        )


def _recorded(folder: Path) -> TrainRun | None:
    from explora.core.recording import read_record

    record = read_record(folder)
    return record.run if record else None


def _recorded_base(folder: Path) -> str:
    """Return the base that the run's record, or PEFT's configuration, names."""
    import json

    run = _recorded(folder)
    if run is not None:
        return run.model
    try:
        name = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        name = None
    if not isinstance(name, str) or not name:
        raise AdapterError(f"{folder} does not name its base", "name it: --model NAME|FOLDER")
    return name


def _recorded_tokenizer(folder: Path) -> str | None:
    run = _recorded(folder)
    return run.tokenizer if run else None


def _recorded_seed(folder: Path | None) -> int:
    """Return the seed of a run, which chose the dev rows of a single file; the default of a base alone."""
    run = _recorded(folder) if folder else None
    return (run.training if run else TrainingConfig()).seed


def load_run_tokenizer(folder: Path) -> Tokenizer | None:
    """Return the tokenizer that a run from scratch trained, None where there is none yet."""
    return load_tokenizer(folder) if (folder / "tokenizer.json").is_file() else None
