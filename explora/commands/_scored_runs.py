"""Score several runs on the same rows with progress, and report the runs that are left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explora import console
from explora.commands._skipped_rows import show_skipped
from explora.core.config.concerns import DataConfig, RuntimeConfig
from explora.core.data.text_files import STDIN
from explora.core.runs.record import read_record
from explora.errors import ExploraError, UsageError

if TYPE_CHECKING:
    from explora.core.ranking.candidates import LeftOut
    from explora.core.ranking.scoring import Entry


@dataclass(frozen=True, kw_only=True)
class Request:
    """Rows, runs and settings that a command asks for.

    data: settings of the rows by name, as given; encoding: likewise; asked: the data settings that `data`
    resolves to.
    """

    task: str
    names: Sequence[str]
    data: Mapping[str, Any]
    asked: DataConfig
    encoding: Mapping[str, Any]
    split: str | None
    runtime: RuntimeConfig
    model: str | None
    tokenizer: str | None
    batch_size: int
    forgetting: bool


def score_runs(request: Request) -> tuple[list[Entry], list[LeftOut]]:
    """Return the scored runs in their order, without predictions if there are more than two.

    Raises ExploraError if no run can be scored, and UsageError if the runs have no rows in common.
    """
    from explora.core.ranking.candidates import LeftOut, check_held_out, choose_data, find_candidates
    from explora.core.ranking.forgetting import GeneralText
    from explora.core.ranking.scoring import Scoring, Setup

    if request.data.get("data") == STDIN:
        raise UsageError(
            "standard input can be read for one run only", "write the rows to a file: --data FILE"
        )
    candidates, left_out = find_candidates(request.task, request.names)
    for each in left_out:
        _warn(each)
    for candidate in candidates:
        warn_if_unfinished(Path(candidate.name))
    data, trained_on = choose_data(candidates, request.asked if "data" in request.data else None)
    check_held_out(candidates, data, request.split)
    setup = Setup(
        task=request.task,
        data=data if "data" in request.data else dataclasses.replace(data, **request.data),
        trained_on=trained_on,
        split=request.split,
        runtime=request.runtime,
        encoding=request.encoding,
        model=request.model,
        tokenizer=request.tokenizer,
        batch_size=request.batch_size,
    )
    scoring = Scoring(setup, GeneralText() if request.forgetting else None)
    entries: list[Entry] = []
    with console.progress("eval", len(candidates)) as advance:
        for done, found in enumerate(scoring.run(candidates), 1):
            if isinstance(found, LeftOut):
                left_out.append(found)
                _warn(found)
                continue
            if not entries:
                _note_rows(found)
            entries.append(found if len(candidates) <= 2 else found.without_predictions())
            advance(done, f"{found.candidate.name}  {found.metric} {found.score.value:.4g}")
    if not entries:
        raise ExploraError("no run could be scored: the reasons are above", f"explora train {request.task}")
    return entries, left_out


def warn_if_unfinished(folder: Path) -> None:
    """Warn of a run folder whose training has not finished."""
    record = read_record(folder)
    if record is not None and not record.finished:
        console.warn(f"{folder} has not finished training: its scores are those of its best weights so far")


def _note_rows(entry: Entry) -> None:
    console.note(f"scored on {entry.rows.described}")
    show_skipped(entry.rows.found.skipped, len(entry.rows.found.examples))


def _warn(left_out: LeftOut) -> None:
    if left_out.reason.startswith(left_out.name):
        console.warn(f"left out: {left_out.reason}")
    else:
        console.warn(f"{left_out.name} is left out: {left_out.reason}")
