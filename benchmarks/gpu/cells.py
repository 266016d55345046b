"""Run the cells of `explora bench` in this process, so that libraries and GPU are started only once."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from compile_blocks import compile_blocks

from explora.core.bench import cell_process
from explora.core.bench import run as bench_run
from explora.core.model import gpt2
from explora.core.runs.assemble import Session, assemble_for_training

ENTRIES = {
    bench_run.CELL: "measure",
    bench_run.REFERENCE: "export",
    bench_run.PEER: "measure",
}
REPLACED = ("affine", "gelu", "recompute_between")  # by compile_blocks


def ask_here(
    module: str, request: Mapping[str, Any], environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Answer the request of a bench in this process, with the GPU's memory as it was at the start.

    A peer computes as its users do, without explora's choice of deterministic kernels.
    """
    entry = getattr(importlib.import_module(module), ENTRIES[module])
    free_memory()
    torch.use_deterministic_algorithms(False)
    result: dict[str, Any] = entry(request)
    return result


def free_memory() -> None:
    """Free what earlier cells left, and count the peak from here on."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


@contextmanager
def in_this_process() -> Iterator[None]:
    """Inside this context, a bench measures in this process."""
    with patch.object(bench_run, "ask", ask_here):
        yield


def _assemble_compiled(*given: Any) -> tuple[Session, Any, Any]:
    session, train, dev = assemble_for_training(*given)
    compile_blocks(session.model)
    return session, train, dev


@contextmanager
def compiled() -> Iterator[None]:
    """Inside this context, the blocks of our model are compiled by torch.compile."""
    with ExitStack() as stack:
        for name in REPLACED:
            stack.enter_context(patch.object(gpt2, name, getattr(gpt2, name)))  # restored at the end
        stack.enter_context(patch.object(cell_process, "assemble_for_training", _assemble_compiled))
        yield
