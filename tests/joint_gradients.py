"""Run by torchrun: the first gradients of processes that share a batch, against those of one process.

Prints one JSON line: for each task and method, for batches that do and do not divide evenly, the largest
difference in fp64, relative to the largest gradient.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from explora.core.model.gpt2 import GPT2
from explora.core.runs.assemble import assemble_for_training
from explora.core.runtime.processes import Processes, joined_processes
from explora.core.training.loop import Training
from tests.tiny_models import PAIRS, tiny_run

BATCHES = {"even": [0, 1, 2, 3], "uneven": [0, 1, 2, 3, 4], "single": [3]}  # in two processes


def gradients(training: Training, processes: Processes, rows: Sequence[int], items: int = 0) -> Tensor:
    """The gradients of a step on `rows`, flat; the loss is their mean over `items`, by default over all."""
    training.processes = processes
    training.model.zero_grad(set_to_none=True)
    batches = training.collate(processes.share(rows), epoch=0)
    losses = training.accumulate(batches, items or training._totals(batches)[0])
    processes.add_gradients(training.trained, losses)
    found = [torch.zeros_like(value) if value.grad is None else value.grad for value in training.trained]
    return torch.cat([value.flatten() for value in found])


def differences(base: Path, data: Path, processes: Processes) -> dict[str, dict[str, float]]:
    """Return, by task and method, the difference for each batch, and that of a wrong number of items."""
    found = {}
    for task, method in PAIRS:
        run = tiny_run(base, data, task, method=method, dropout=0.0)
        session, train, dev = assemble_for_training(run)
        session.model.double().compute_dtype = torch.float64
        training = Training(session.model, session.task, run, train.examples, dev.examples, Path())
        alone = {name: gradients(training, Processes(), rows) for name, rows in BATCHES.items()}
        joint = {name: gradients(training, processes, rows) for name, rows in BATCHES.items()}
        alone["planted"], joint["planted"] = (
            alone["uneven"],
            gradients(training, processes, BATCHES["uneven"], 3),
        )
        found[f"{task} {method}"] = {
            name: float((joint[name] - alone[name]).abs().max() / alone[name].abs().max()) for name in alone
        }
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]  # heads and losses ask for fp32
    GPT2.pack = lambda self, *, twice: None  # type: ignore[method-assign]  # packed weights are fp32
    with joined_processes() as processes:
        found = differences(Path(sys.argv[1]), Path(sys.argv[2]), processes)
        if processes.leads:
            print(json.dumps(found))
