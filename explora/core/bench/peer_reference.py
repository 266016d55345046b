"""The input for another stack to do the same work: the rows, the base, and the expected initial loss.

`python -m explora.core.bench.peer_reference` writes them; the stack then runs without explora's model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from explora.core.base.model_folder import write_model
from explora.core.base.weights import load_model
from explora.core.bench.cell_process import endless_batches, open_cell
from explora.core.bench.measurements import WARMUP_STEPS, Cell
from explora.core.bench.protocol import answer
from explora.core.runs.assemble import Session
from explora.core.tasks.contract import Batch, Example

NO_LOSS = -100  # the label that transformers ignores in its loss


def export(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rows of the cell's batches in transformers' form, and explora's loss on the first in fp32.

    A base with files is used from its folder. A random base is written to the request's `folder`.
    """
    cell = Cell.from_json(request["cell"])
    assert cell.steps is not None
    in_fp32 = dataclasses.replace(cell.run.runtime, amp="off")
    session, run, examples = open_cell(
        dataclasses.replace(cell, run=dataclasses.replace(cell.run, runtime=in_fp32))
    )
    batches = endless_batches([len(example.ids) for example in examples], run)
    wanted = [
        (epoch, [examples[row] for row in rows]) for epoch, rows in islice(batches, WARMUP_STEPS + cell.steps)
    ]
    collated = [(chosen, session.task.collate(chosen, epoch)) for epoch, chosen in wanted]
    session.model.eval()
    with torch.no_grad():
        first = collated[0][1].to(session.model.device)
        loss = float(session.task.loss(session.model, first)) / max(1, first.weight)
    return {
        "base": str(session.base.folder or _write_base(session, Path(request["folder"]))),
        "batches": [_rows(session, chosen, batch) for chosen, batch in collated],
        "candidates": session.task.candidates,
        "pad": session.tokenizer.eos,
        "loss": loss,
    }


def _write_base(session: Session, folder: Path) -> Path:
    model = load_model(session.base, dtype=torch.float32, device=torch.device("cpu"))
    write_model(folder, model.state_dict(), session.base.shape, session.tokenizer)
    return folder


def _rows(session: Session, examples: Sequence[Example], batch: Batch) -> list[dict[str, Any]]:
    """Return ids, labels and the number of real tokens of each row.

    A cloze becomes language modelling: the answer is one more token, and the only one with a label.
    """
    if (candidates := session.task.candidates) is not None:
        answers = [candidates[target] for target in batch.targets.tolist()]
        return [_row([*row.ids, word], len(row.ids), 1) for row, word in zip(examples, answers, strict=True)]
    targets = [row[: len(example.ids)] for row, example in zip(batch.targets, examples, strict=True)]
    return [
        _row(list(example.ids), len(example.ids), int((target >= 0).sum()))
        for example, target in zip(examples, targets, strict=True)
    ]


def _row(ids: list[int], tokens: int, answers: int) -> dict[str, Any]:
    """Return a row whose labels are its last `answers` ids; transformers shifts them."""
    given = len(ids) - answers
    return {"ids": ids, "labels": [NO_LOSS] * given + ids[given:], "tokens": tokens}


if __name__ == "__main__":
    answer(export)
