"""Run the checks: those of each method, then those of code that all methods share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from explora.core.base.find import base_tokenizer, open_base
from explora.core.base.weights import load_model
from explora.core.checking import answering, keeping, shortcuts, starting
from explora.core.checking.check import Check, Finding, S
from explora.core.checking.subject import Subject, write_rows
from explora.core.files import remove_folder
from explora.core.model.gpt2 import GPT2
from explora.errors import ExploraError, Interrupted

OF_METHODS: tuple[Check[Subject], ...] = (
    starting.start,
    starting.declared,
    starting.moves,
    starting.frozen,
    shortcuts.accumulation,
    shortcuts.checkpointing,
    shortcuts.caching,
    keeping.resuming,
    keeping.saving,
    keeping.merging,
)
SHARED: tuple[Check[GPT2], ...] = (
    answering.chunked_loss,
    answering.pruned_rows,
    answering.sampling,
    answering.decoding,
)
CHECKS: tuple[Check[Any], ...] = (*OF_METHODS, *SHARED)


def check_installation(methods: Sequence[str], model: str, scratch: Path) -> Iterator[Finding]:
    """Check each method on the base `model`, and the shared code; files are written to `scratch`.

    Raises WeightsError for a base that cannot be opened. Every other failure is a finding.
    """
    opened = open_base(model)
    base = load_model(opened, dtype=torch.float32, device=torch.device("cpu")).eval()
    tokenizer, data = base_tokenizer(opened), scratch / "data"
    write_rows(data)
    with _one_thread():
        for method in methods:
            folder = scratch / method
            subject = Subject(
                method=method, model=model, base=base, tokenizer=tokenizer, data=data, folder=folder
            )
            for each in OF_METHODS:
                yield find(each, subject, method)
            remove_folder(folder)
        for shared in SHARED:
            yield find(shared, base)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread, which is faster for such small products."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def find(each: Check[S], subject: S, method: str | None = None) -> Finding:
    """Measure one check. An exception in it becomes a finding, so that the other checks still run."""
    figure, error = None, ""
    # The random numbers of a check must not depend on the checks before it.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            figure = each.measure(subject)
        except Interrupted:
            raise
        except ExploraError as found:
            error = found.message
        except Exception as found:
            error = f"{type(found).__name__}: {found}"
    return Finding(check=each.name, method=method, tolerance=each.tolerance, figure=figure, error=error)
