"""Check the data of a run and show its settings with their sources, for `train --dry-run`."""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path

from explora import console
from explora.commands._planning import Plan, shown
from explora.core.config.registry import TASKS
from explora.core.config.run_config import TrainRun, settings_of
from explora.core.estimate.parameters import count
from explora.core.runs.example_code import quoted

AT_THE_START = ("device", "amp", "threads")  # settings that a run chooses itself unless they are given
LONGEST = 48  # characters of a value in the table; a longer one is below it in full


def check_data(run: TrainRun) -> None:
    """Read the rows of a run without encoding them; of plain text, only find the files.

    Raises DataError for what would stop the run. A known data set that may have to be fetched is not read.
    """
    from explora.core.data.known_datasets import SOURCES
    from explora.core.data.splits import find_split, load_split
    from explora.core.data.text_files import check_is_file

    known = SOURCES.get(run.data.data or "")
    if known is not None and known.repo:
        return
    train, dev = (find_split(run.task, run.data, split) for split in ("train", "dev"))
    for found in (train, dev):
        check_is_file(Path(found.file))
    if TASKS[run.task].stream:
        return
    load_split(run.task, run.data, "train", run.training.seed)
    if dev.file != train.file:
        load_split(run.task, run.data, "dev", run.training.seed)


def show_plan(plan: Plan, json: bool) -> None:
    """Show the settings of a run with their sources, and the number of trained parameters."""
    run, origins = plan.run, plan.origins
    classes = TASKS[run.task].head_classes(run.method.needs_head)
    trainable = count(plan.shape, run.method, classes).trainable
    if json:
        console.result_json({"config": run.to_json(), "origins": origins, "trainable": trainable})
        return
    values = {name: _planned(run, name) for name in settings_of(run)}
    rows = [(name, _shortened(value), origins[name]) for name, value in values.items()]
    console.result_table(("setting", "value", "from"), rows)
    for name, value in values.items():
        if len(value) > LONGEST:
            console.result(f"{name}: {value}")
    head = f", with a head of {classes} classes" if classes else ""
    console.result(f"trainable parameters: {trainable:,}{head}")


def _planned(run: TrainRun, name: str) -> str:
    """Return a setting as its option takes it, or the value that an unset option stands for."""
    value = shown(run, name)
    if name in AT_THE_START and value in ("none", "auto"):
        return "auto (chosen at the start)"
    if name == "alpha" and value == "none":
        return f"{attrgetter('common_alpha')(run.method):g} (by rank)"
    return quoted(value) if " " in value else value  # a space at the end counts, and is visible in quotes


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
