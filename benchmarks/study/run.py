"""Train the cells that have no row yet, in the order of the plan, and append a row for each."""

from __future__ import annotations

import datetime
import importlib.metadata
import math
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.study.data import ROOT, Splits, find_base, write_splits
from benchmarks.study.plan import Cell, Plan
from benchmarks.study.rows import Row, append_row, pack, read_rows
from explora.api import configure
from explora.core.base.find import open_base
from explora.core.base.weights import base_digest
from explora.core.config.concerns import DataConfig, RuntimeConfig
from explora.core.config.run_config import TrainRun
from explora.core.machine.facts import describe_machine
from explora.core.ranking.candidates import find_candidates
from explora.core.ranking.forgetting import GeneralText
from explora.core.ranking.scoring import Entry, Scoring, Setup
from explora.core.runs.record import read_dev_scores
from explora.core.runs.result import TrainResult
from explora.core.runtime.resolve import resolve_for_answers, resolve_runtime
from explora.core.sweeps.jobs import Jobs, Order, Report
from explora.core.sweeps.outcomes import State, read_outcome, record_failure
from explora.core.sweeps.processors import divide_processors

EVALUATION_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where the study reads and writes: data sets, scratch folder, the file of rows, other files of rows."""

    source: Path
    work: Path
    output: Path
    others: tuple[Path, ...] = ()

    def rows(self) -> list[Row]:
        """Return the rows so far."""
        return read_rows((*self.others, self.output))


@dataclass(frozen=True, kw_only=True)
class Session:
    """How long and where to train: `deadline` by time.monotonic, `shard` is (part, parts).

    commit: of the code, where it is not a git repository.
    """

    jobs: int
    deadline: float
    shard: tuple[int, int]
    runtime: RuntimeConfig
    commit: str | None = None


class Study:
    """Run the plan: what is trained is scored by this process meanwhile, and then removed."""

    def __init__(self, plan: Plan, places: Places, session: Session) -> None:
        self.plan, self.places = plan, places
        self.session = replace(session, runtime=resolve_runtime(session.runtime))
        self.general_text = GeneralText()
        self.scorings: dict[tuple[str, str], Scoring] = {}
        self.circumstances = _circumstances(self.session)

    def run(self, stages: Sequence[str]) -> Iterator[str]:
        """Train stage by stage, and yield a line for people after each cell and each stage."""
        for name in stages:
            failed: set[str] = set()
            while cells := [cell for cell in self._missing(name) if cell.name not in failed]:
                yield from self._train(cells)
                if time.monotonic() >= self.session.deadline:
                    yield "the time is up: the same command goes on from here"
                    return
                recorded = {row["cell"] for row in self.places.rows()}
                failed |= {cell.name for cell in cells} - recorded
            yield f"{name}: done"

    def _missing(self, name: str) -> list[Cell]:
        """Return the cells of a stage that are known, belong to this shard and have no row."""
        rows = self.places.rows()
        recorded = {row["cell"] for row in rows}
        cells = self.plan.cells(self.plan.stage(name), rows)
        part, parts = self.session.shard
        own = [cell for number, cell in enumerate(cells) if number % parts == part - 1]
        return [cell for cell in own if cell.name not in recorded]

    def _train(self, cells: Sequence[Cell]) -> Iterator[str]:
        by_name = {cell.name: cell for cell in cells}
        orders = {cell.name: self._order(cell) for cell in cells}
        trained = [
            name
            for name, order in orders.items()
            if read_outcome(order.folder, order.run).state is State.FINISHED
        ]
        for name in trained:  # by a session that ended before it scored them
            yield self._record(by_name[name], orders[name])
        left = [order for name, order in orders.items() if name not in trained]
        if not left:
            return
        jobs = Jobs(left, divide_processors(self.session.jobs)[: len(left)])
        for report in jobs.events():
            yield from self._note(report, by_name[report.name], orders[report.name])
            if time.monotonic() >= self.session.deadline:
                for late in jobs.stop():
                    yield from self._note(late, by_name[late.name], orders[late.name])
                return

    def _note(self, report: Report, cell: Cell, order: Order) -> Iterator[str]:
        if report.event == "failed":
            record_failure(order.folder, report.facts["message"], report.facts["details"])
            yield self._record_failure(cell, report.facts["message"])
        elif report.event == "finished":
            yield self._record(cell, order)

    def _order(self, cell: Cell) -> Order:
        folder = self.places.work / "runs" / cell.name
        return Order(name=cell.name, folder=folder, run=self._configure(cell))

    def _splits(self, cell: Cell) -> Splits:
        return write_splits(cell.data, cell.rows, self.places.source, self.places.work / "data")

    def _configure(self, cell: Cell) -> TrainRun:
        """Return the run of a cell. It is scored as often as the plan says, at equal distances."""
        splits = self._splits(cell)
        settings = {name: value for name, value in cell.settings.items() if name != "evaluations"}
        run = configure(
            cell.data.task,
            settings
            | {"data": str(splits.train), "dev": str(splits.choose), "seed": cell.seed}
            | {"model": find_base(cell.base, self.places.work)},
        )
        examples = len(splits.train.read_text(encoding="utf-8").splitlines())
        steps = run.training.steps(examples)
        training = replace(run.training, eval_every=math.ceil(steps / cell.settings["evaluations"]))
        return replace(run, training=training, runtime=self.session.runtime)

    def _record(self, cell: Cell, order: Order) -> str:
        """Score a finished run, append its row, and remove its weights."""
        entry = self._score(cell, order.folder)
        outcome = read_outcome(order.folder, order.run)
        assert outcome.result is not None and outcome.dev is not None
        result = TrainResult.from_json(outcome.result)
        evaluation, forgetting = entry.evaluation, entry.forgetting
        assert evaluation.scores is not None
        score = evaluation.scores[entry.metric]
        row = self._about(cell) | {
            "metric": entry.metric,
            "higher_is_better": entry.score.higher_is_better,
            "dev": outcome.dev,
            "curve": read_dev_scores(order.folder),
            "score": score,
            "scores": evaluation.scores,
            "trivial": evaluation.floors.get(entry.metric),
            "trivial_answer": evaluation.trivial_answers.get(entry.metric),
            "forgetting": forgetting and [forgetting.before, forgetting.after],
            "by_example": pack(entry.score),
            "steps": result.steps,
            "best_step": result.best_step,
            "examples": result.examples,
            "tokens": result.tokens,
            "processor_seconds": result.processor_seconds,
            "seconds": result.seconds,
            "trainable": result.trainable,
            "share": result.share,
            "file_bytes": entry.candidate.file_bytes,
        }
        append_row(self.places.output, row)
        shutil.rmtree(order.folder)
        return f"{cell.stage}  {cell.name}  chosen on {outcome.dev:.4f}  {entry.metric} {score:.4f}"

    def _record_failure(self, cell: Cell, message: str) -> str:
        """Append the row of a run that diverged. Other failures have no row, so that they are tried again."""
        if " at step " not in message and "never a number" not in message:
            return f"{cell.stage}  {cell.name}  failed: {message}"
        task_metric = "perplexity" if cell.data.task == "sonnet" else "accuracy"
        row = self._about(cell) | {
            "metric": task_metric,
            "higher_is_better": task_metric == "accuracy",
            "dev": None,
            "score": None,
            "error": message,
        }
        append_row(self.places.output, row)
        return f"{cell.stage}  {cell.name}  diverged: {message}"

    def _about(self, cell: Cell) -> dict[str, Any]:
        base = open_base(find_base(cell.base, self.places.work))
        return {
            "cell": cell.name,
            "stage": cell.stage,
            "task": cell.data.task,
            "data": cell.data.name,
            "rows": cell.rows,
            "base": cell.base,
            "base_digest": base_digest(base),
            "contender": cell.contender,
            "settings": dict(cell.settings),
            "power": cell.power,
            "seed": cell.seed,
            "amp": self.session.runtime.amp,
            "device": self.session.runtime.device,
            "threads": self.session.runtime.threads,
        } | self.circumstances

    def _score(self, cell: Cell, folder: Path) -> Entry:
        """Score a run on the reporting rows, in the precision that it was trained in."""
        key = (cell.data.name, cell.base)
        if key not in self.scorings:
            self.scorings[key] = Scoring(self._setup(cell), self.general_text)
        candidates, left_out = find_candidates(cell.data.task, [str(folder)])
        found = next(self.scorings[key].run(candidates), None) if candidates else left_out[0]
        if not isinstance(found, Entry):
            raise RuntimeError(f"{folder} could not be scored: {found}")
        return found

    def _setup(self, cell: Cell) -> Setup:
        splits = self._splits(cell)
        return Setup(
            task=cell.data.task,
            data=DataConfig(data=str(splits.report)),
            trained_on=DataConfig(data=str(splits.train), dev=str(splits.choose)),
            split=None,
            runtime=resolve_for_answers(self.session.runtime),
            encoding={},
            model=None,
            tokenizer=None,
            batch_size=EVALUATION_BATCH,
        )


def _circumstances(session: Session) -> dict[str, Any]:
    """Return what all rows of a session share: date, commit, versions, machine."""
    has_gpu = session.runtime.device == "cuda"
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": session.commit or _commit(),
        "versions": {"python": platform.python_version(), "torch": importlib.metadata.version("torch")},
        "machine": describe_machine(),
        "gpu": torch.cuda.get_device_name() if has_gpu else None,
    }


def _commit() -> str:
    git = ["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
