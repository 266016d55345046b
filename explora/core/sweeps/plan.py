"""The plan of a sweep, sweep.json: its cells with every setting as resolved.

Importing this module does not load torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from explora.core.config.concerns import RuntimeConfig
from explora.core.config.run_config import TrainRun
from explora.core.files import write_once
from explora.core.sweeps.cells import Cell
from explora.errors import UsageError

PLAN_FILE = "sweep.json"
UNDECIDED = ("auto", None)  # values of runtime settings that the machine decides


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The cells of a sweep, in the order in which one job trains them."""

    task: str
    cells: tuple[Cell, ...]


def read_plan(folder: Path) -> Plan | None:
    """Return the plan of a sweep folder, None if there is none. Raises UsageError for a damaged plan."""
    file = folder / PLAN_FILE
    if not file.is_file():
        return None
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        return Plan(task=value["task"], cells=tuple(_read_cell(each) for each in value["cells"]))
    except (ValueError, KeyError, TypeError, UsageError) as error:
        raise UsageError(f"{file} is damaged: {error!r}", "start the sweep again with --overwrite") from None


def _read_cell(value: Mapping[str, Any]) -> Cell:
    return Cell(name=value["name"], run=TrainRun.from_json(value["config"]), varied=value["settings"])


def publish_plan(folder: Path, plan: Plan) -> Plan:
    """Write the plan unless another machine has written one; return the plan in the folder."""
    cells = [
        {"name": each.name, "settings": each.varied, "config": each.run.to_json()} for each in plan.cells
    ]
    text = json.dumps({"task": plan.task, "cells": cells}, indent=2, ensure_ascii=False) + "\n"
    if write_once(folder / PLAN_FILE, text):
        return plan
    published = read_plan(folder)
    assert published is not None
    return Plan(task=plan.task, cells=adopt(plan.cells, published, folder))


def adopt(cells: Sequence[Cell], recorded: Plan, folder: Path) -> tuple[Cell, ...]:
    """Return the cells with the runtime settings that a recorded plan has for them.

    Raises UsageError unless both plans have the same cells.
    """
    known = {cell.name: cell for cell in recorded.cells}
    found = tuple(_with_runtime(cell, known.get(cell.name)) for cell in cells)
    if {cell.name: cell.run for cell in found} == {name: cell.run for name, cell in known.items()}:
        return found
    other = next((cell.name for cell in found if known.get(cell.name) != cell), None)
    other = other or next(name for name in known if name not in {cell.name for cell in found})
    raise UsageError(
        f"{folder} has another sweep: {other} is not a cell of both, or has other settings",
        f"continue it with --resume, replace it with --overwrite, or choose another folder: -o {folder}-2",
    )


def _with_runtime(cell: Cell, recorded: Cell | None) -> Cell:
    """Return the cell with the runtime settings that the machine decided before."""
    if recorded is None:
        return cell
    values = {
        item.name: getattr(recorded.run.runtime, item.name)
        for item in fields(RuntimeConfig)
        if getattr(cell.run.runtime, item.name) in UNDECIDED
    }
    return replace(cell, run=replace(cell.run, runtime=replace(cell.run.runtime, **values)))
