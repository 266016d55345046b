"""Assemble base, task and method into a session: a model for training, evaluation or generation."""

from __future__ import annotations

import dataclasses
from collections.abc import Container
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from explora.core.base.find import Base, base_tokenizer, open_base
from explora.core.base.model_folder import write_model
from explora.core.base.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from explora.core.base.weights import base_digest, load_model, read_weights
from explora.core.config.concerns import EncodingConfig, RuntimeConfig
from explora.core.config.method import Method
from explora.core.config.registry import load_implementation, task_row
from explora.core.config.run_config import TrainRun
from explora.core.data.documents import stream_documents
from explora.core.data.splits import find_split
from explora.core.files import write_atomically
from explora.core.generate.decode import Prompt
from explora.core.model.gpt2 import GPT2
from explora.core.runs.adapter import (
    Header,
    from_peft_tensors,
    read_adapter,
    write_adapter,
)
from explora.core.runtime.resolve import DTYPES, set_seed
from explora.core.tasks.contract import Split, Task, TaskContext
from explora.core.training.checkpoint import trained_tensors

FULL_HEADER = "explora.json"
VOCABULARY_DOCUMENTS = 60_000  # a byte-level vocabulary is learned from at most this many documents


@dataclass(frozen=True, kw_only=True)
class SessionParts:
    """A task with its tokenizer, base and method: everything in a session except its model.

    `header` describes the trained weights, None for a base. `label` is the name of the model in output.
    `source` is the folder that it was opened from, None during training and for a base that is given by name.
    """

    task: Task
    task_name: str
    tokenizer: Tokenizer
    base: Base
    method: Method
    encoding: EncodingConfig
    header: Header | None
    label: str
    source: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Session(SessionParts):
    """A model with its task, tokenizer, base and method, ready to train or to answer."""

    model: GPT2

    @property
    def classes(self) -> int:
        """The number of classes of the linear head, 0 if the tied head answers."""
        return 0 if self.model.score is None else self.model.score.out_features

    def prompt(self, text: str, seed: int) -> Prompt:
        """Encode a text to continue; an empty text becomes the start token of the base."""
        prompt = self.task.prompt(text, seed)
        start = self.base.start_token
        return prompt if prompt.ids or start is None else dataclasses.replace(prompt, ids=[start])

    def settle(self) -> None:
        """Prepare the model for inference only: it can no longer be trained, merged or saved."""
        self.model.requires_grad_(False).pack(twice=False)


def assemble(
    parts: SessionParts,
    runtime: RuntimeConfig,
    *,
    dtype: torch.dtype,
    dropout: float = 0.0,
    seed: int = 0,
    fresh_head: bool = True,
    in_fp32: Container[str] = (),
) -> Session:
    """Load the weights of the base, add the head that the task needs, and apply the method.

    dtype: of all weights except those named in `in_fp32`; dropout: of the base; seed: for random weights, if
    the base has no files; fresh_head: give the task an untrained head, even if the base has one. If the task
    has no head of its own, the head of the base is dropped. Raises WeightsError and UsageError.
    """
    classes = parts.task.head_classes()
    model = load_model(
        parts.base,
        dtype=dtype,
        device=torch.device(runtime.device),
        dropout=dropout,
        seed=seed,
        in_fp32=in_fp32,
        with_head=classes is not None and not fresh_head,
    )
    model.compute_dtype = DTYPES[runtime.amp]
    model.grad_checkpoint = runtime.grad_checkpoint
    model.limit_plain_attention(runtime.plain_attention)
    if classes is not None and fresh_head:
        head = nn.Linear(model.shape.n_embd, classes, bias=False)  # on the CPU, as in LoRALinear
        nn.init.normal_(head.weight, std=0.02)
        model.score = head.to(model.device)
    parts.method.apply(model)
    return Session(model=model, **vars(parts))


def make_task(
    name: str,
    tokenizer: Tokenizer,
    encoding: EncodingConfig,
    method: Method,
    context: int,
    seed: int,
    labels: tuple[str, ...] = (),
) -> Task:
    """Return a new task object for the task called `name` in the registry."""
    task_context = TaskContext(
        name=name,
        tokenizer=tokenizer,
        encoding=encoding,
        needs_head=method.needs_head,
        n_positions=context,
        seed=seed,
        labels=labels,
    )
    task: Task = load_implementation(task_row(name).implementation)(task_context)
    return task


def assemble_for_training(run: TrainRun, tokenizer: Tokenizer | None = None) -> tuple[Session, Split, Split]:
    """Return the session of a run before its first step, and its train and dev splits.

    The runtime of `run` must be resolved. `tokenizer` is given if it was trained for a base from scratch. The
    data is read before the weights, so that a bad row is reported early.
    """
    base = _scratch(run) if run.from_scratch else open_base(run.model)
    tokenizer = tokenizer or base_tokenizer(base, run.tokenizer)
    set_seed(run.training.seed)
    context, seed = base.shape.n_positions, run.training.seed
    task = make_task(run.task, tokenizer, run.encoding, run.method, context, seed)
    train, dev = task.load(run.data, "train"), task.load(run.data, "dev")
    run.method.check_fit(base.shape)
    header = Header(
        task=run.task,
        method=run.method,
        base="" if base.folder is not None and Path(run.model).exists() else base.name,
        base_digest=base_digest(base),
        encoding=run.encoding,
        labels=task.labels,
    )
    parts = SessionParts(
        task=task,
        task_name=run.task,
        tokenizer=tokenizer,
        base=base,
        method=run.method,
        encoding=run.encoding,
        header=header,
        label=base.label,
    )
    session = assemble(
        parts,
        run.runtime,
        dtype=DTYPES[run.runtime.amp],
        dropout=run.training.dropout,
        seed=seed if run.from_scratch else 0,
        in_fp32=run.method.trained_shapes(base.shape),
    )
    session.model.pack(twice=run.runtime.amp == "bf16" and not run.runtime.grad_checkpoint)
    return session, train, dev


def _scratch(run: TrainRun) -> Base:
    assert run.from_scratch is not None
    return Base(name="from-scratch", folder=None, shape=run.from_scratch, label="from scratch")


def save_trained(session: Session, folder: Path, best_step: int) -> None:
    """Write the trained weights: a PEFT adapter, or a Hugging Face model for full fine-tuning."""
    assert session.header is not None
    header = dataclasses.replace(session.header, best_step=best_step)
    if session.method.trains_base:
        write_trained_model(session, folder)
        write_atomically(folder / FULL_HEADER, header.to_json() + "\n")
        return
    base = header.base or str(session.base.folder and session.base.folder.absolute())
    write_adapter(folder, trained_tensors(session.model), header, base)


def read_full_header(folder: Path) -> Header | None:
    """Return the header of a model that full fine-tuning wrote, or None if there is none.

    Raises AdapterError for a damaged header.
    """
    file = folder / FULL_HEADER
    return Header.from_json(file.read_text(encoding="utf-8"), str(file)) if file.is_file() else None


def write_trained_model(session: Session, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write the model of a session without adapters, or with merged ones, as a Hugging Face folder."""
    tensors = {name: value.detach().to(dtype) for name, value in session.model.state_dict().items()}
    labels = session.task.labels if session.model.score is not None else None
    write_model(folder, tensors, session.model.shape, session.tokenizer, labels=labels, base=session.base)


def restore_trained(session: Session, folder: Path) -> None:
    """Load the weights that `save_trained` wrote into the model of the session."""
    if session.method.trains_base:
        read_weights(session.model, open_base(str(folder.resolve())))
        return
    insert_adapter(session.model, folder, session.method)


def insert_adapter(model: GPT2, folder: Path, method: Method) -> None:
    """Load the tensors of an adapter folder into a model that has the method. Raises AdapterError."""
    tensors, _ = read_adapter(folder)
    own = trained_tensors(model)
    with torch.no_grad():
        for name, value in from_peft_tensors(tensors, own, method, str(folder)).items():
            own[name].copy_(value)


def merge_in_memory(session: Session, dtype: torch.dtype) -> None:
    """Merge the adapters of a session opened in fp32 into its weights, then cast these to `dtype`."""
    session.method.merge(session.model)
    head = session.model.score
    session.model.to(dtype)
    if head is not None:
        head.float()
    session.model.compute_dtype = dtype


def own_tokenizer(run: TrainRun, folder: Path, *, fresh: bool) -> Tokenizer | None:
    """Return the tokenizer of a base from scratch; the first time, train it on the text of the run.

    Returns None if the base has a tokenizer, or the run names one.
    """
    if run.from_scratch is None or run.tokenizer is not None:
        return None
    known = None if fresh else _load_run_tokenizer(folder)
    if known is not None:
        return known
    text = find_split(run.task, run.data, "train").file
    documents = islice(stream_documents(text, run.data.encoding), VOCABULARY_DOCUMENTS)
    return train_tokenizer(documents, run.from_scratch.vocab_size)


def _load_run_tokenizer(folder: Path) -> Tokenizer | None:
    """Return the tokenizer that a run from scratch trained, or None if it has not been written yet."""
    return load_tokenizer(folder) if (folder / "tokenizer.json").is_file() else None
