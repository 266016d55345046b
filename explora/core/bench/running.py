"""A whole bench: which contenders, cell after cell, and what they add up to. A generator; prints nothing."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from explora.core.bench.cells import Cell, Contender, Measurement
from explora.core.bench.load import OtherLoad
from explora.core.bench.protocol import ask
from explora.core.bench.rows import Outcome, Row, summarise
from explora.core.bench.sample import sample, write_sample
from explora.core.bench.verdict import verdict
from explora.core.config import DataConfig, TrainRun
from explora.core.measure import describe_machine
from explora.core.runtime import resolve_runtime
from explora.core.session import make_task
from explora.core.sources import Base, base_tokenizer, open_base
from explora.core.tasks.contract import Example
from explora.errors import TrainingError, UsageError

CELL = "explora.core.bench.cell"
REFERENCE = "explora.core.bench.reference"
PEER = "explora.core.bench.peer"
TIMED_SECONDS = 60.0  # of training, over all cells, where no number of steps is given
SECONDS_A_REPEAT = 50.0  # after so many times this, what is left of the repeats is left out
SAME_LOSS = 1e-3


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to compare: runs that differ in their method, how often, and on which rows (see Cell)."""

    runs: tuple[TrainRun, ...]
    repeats: int
    steps: int | None
    length: int | None
    peer: bool


@dataclass(frozen=True, kw_only=True)
class CellDone:
    """A cell ended: how many of how many, whose, and its speed or why it failed.

    A contender that failed is not run again: `is_new` says that it failed just now.
    """

    done: int
    cells: int
    contender: str
    repeat: int
    tokens_per_second: float
    error: str
    is_new: bool


@dataclass(frozen=True, kw_only=True)
class Result:
    """All rows, the machine, and the verdict, one sentence each."""

    rows: list[Row]
    machine: dict[str, Any]
    verdict: list[str]


@dataclass(kw_only=True)
class _Standing:
    """A contender and what is known of it so far."""

    contender: Contender
    found: list[Measurement] = field(default_factory=list)
    error: str = ""


class Bench:
    """A bench under way; iterate `events()`, the last event being the Result.

    Opens base and data once, so that what is wrong with them is said before any cell starts. `scratch` is
    an empty folder for what the processes share.
    """

    def __init__(self, plan: Plan, scratch: Path) -> None:
        self.base, examples = _survey(plan)
        self.scratch, self.examples = scratch, len(examples)
        runtime = resolve_runtime(plan.runs[0].runtime)
        runs = [dataclasses.replace(run, runtime=runtime) for run in plan.runs]
        self.plan = dataclasses.replace(plan, runs=tuple(runs))
        self.standings = [_Standing(contender=Contender(run=run)) for run in runs]
        self.peer = _peer(self.plan) if plan.peer else None
        self.steps = plan.steps
        self.reference: dict[str, Any] = {}
        self.data = _shared_data(examples, plan.runs[0], scratch / "data")

    @property
    def cells(self) -> int:
        """How many processes measure."""
        return self.plan.repeats * (len(self.standings) + (self.peer is not None))

    def events(self) -> Iterator[CellDone | Result]:
        """Measure: every contender once, then all again, every second time in reverse.

        Without a number of steps the repeats end when time is up, so that a machine that others slow down
        midway keeps nobody waiting; every contender runs at least once.
        """
        done, load, started = 0, OtherLoad(), time.monotonic()
        order = [(repeat, each) for repeat in range(self.plan.repeats) for each in self._order(repeat)]
        for repeat, standing in order:
            if repeat and self._time_is_up(time.monotonic() - started):
                break
            is_new = not standing.error
            if is_new:
                self._measure(standing)
            done += 1
            yield self._done(standing, done, repeat, is_new)
        result = self._result(load.processors())
        if done < self.cells:
            result.verdict.append(f"Time was up after {done} of {self.cells} cells.")
        yield result

    def _time_is_up(self, seconds: float) -> bool:
        """Whether a machine that became slow would keep somebody waiting who asked for nothing special."""
        return self.plan.steps is None and not self.peer and seconds > SECONDS_A_REPEAT * self.plan.repeats

    def _order(self, repeat: int) -> list[_Standing]:
        """The peer comes last the first time: it needs to know how many steps there are."""
        standings = [*self.standings, *([self.peer] if self.peer else [])]
        return standings[::-1] if repeat % 2 else standings

    def _measure(self, standing: _Standing) -> None:
        try:
            if standing is self.peer:
                self._measure_peer(standing)
            else:
                self._measure_own(standing)
        except TrainingError as error:
            standing.error = error.message

    def _measure_own(self, standing: _Standing) -> None:
        """The first cell that ends decides how many steps all others take."""
        found = Measurement(**ask(CELL, self._cell(standing.contender.run).to_json()))
        earlier = [other.found[0].rows for other in self.standings if other.found]
        if earlier and earlier[0] != found.rows:
            raise TrainingError("it read other rows than the first method, so they are not comparable")
        self.steps = found.steps
        standing.found.append(found)

    def _cell(self, run: TrainRun) -> Cell:
        seconds = TIMED_SECONDS / self.cells
        run = dataclasses.replace(run, data=self.data)
        return Cell(run=run, length=self.plan.length, steps=self.steps, seconds=seconds)

    def _measure_peer(self, standing: _Standing) -> None:
        run = standing.contender.run
        if self.steps is None:
            raise TrainingError("there is nothing of ours to compare it with")
        if not self.reference:
            self.reference = ask(
                REFERENCE, {"cell": self._cell(run).to_json(), "folder": str(self.scratch / "base")}
            )
        found = Measurement(**ask(PEER, {"run": run.to_json(), **self.reference}))
        ours = self.reference["loss"]
        if not abs(found.first_loss - ours) <= SAME_LOSS:
            raise TrainingError(
                f"not compared: its loss on the first batch is {found.first_loss:.6f}, ours {ours:.6f} (fp32)"
            )
        standing.found.append(found)

    def _done(self, standing: _Standing, done: int, repeat: int, is_new: bool) -> CellDone:
        last = standing.found[-1] if standing.found else None
        return CellDone(
            done=done,
            cells=self.cells,
            contender=standing.contender.name,
            repeat=repeat + 1,
            tokens_per_second=last.tokens / last.seconds if last else 0.0,
            error=standing.error,
            is_new=is_new,
        )

    def _result(self, busy_elsewhere: float) -> Result:
        standings = [*self.standings, *([self.peer] if self.peer else [])]
        if not any(standing.found for standing in standings):
            first = standings[0]
            raise TrainingError(f"no cell could be measured; {first.contender.name}: {first.error}")
        outcomes = [
            Outcome(contender=each.contender, found=tuple(each.found), error=each.error or None)
            for each in standings
        ]
        rows = summarise(outcomes, self.base.label, self.plan.length, self.reference.get("loss"))
        machine = {**describe_machine(), "busy_elsewhere": round(busy_elsewhere, 2)}
        return Result(rows=rows, machine=machine, verdict=verdict(rows, machine))


def _survey(plan: Plan) -> tuple[Base, Sequence[Example]]:
    """Open base and rows of the first run. Raises UsageError, DataError or WeightsError."""
    run = plan.runs[0]
    base = open_base(run.model)
    context = base.shape.n_positions
    if plan.length is not None and plan.length > context:
        raise UsageError(f"--length {plan.length}: {base.label} reads at most {context} tokens")
    tokenizer = base_tokenizer(base, run.tokenizer)
    task = make_task(run.task, tokenizer, run.encoding, run.method.method, context, run.training.seed)
    return base, task.load(run.data, "train").examples


def _shared_data(examples: Sequence[Example], run: TrainRun, folder: Path) -> DataConfig:
    """Plain text is a mapped file, which costs nobody anything; of anything else a sample is written out."""
    return run.data if run.task == "text" else write_sample(sample(examples, run), folder)


def _peer(plan: Plan) -> _Standing:
    """The LoRA contender of the middle rank on transformers and peft."""
    runs = sorted((run for run in plan.runs if run.method.method == "lora"), key=lambda run: run.method.rank)
    if not runs:
        raise UsageError("--peer is compared with LoRA", "leave lora among the --methods")
    run = runs[len(runs) // 2]
    if run.task == "sentiment":
        raise UsageError("--peer knows no sentiment: its fresh head cannot start from the same weights")
    if run.runtime.amp == "fp16":
        raise UsageError("--peer runs in fp32 or bf16", "--amp off or --amp bf16")
    if missing := [name for name in ("transformers", "peft") if importlib.util.find_spec(name) is None]:
        raise UsageError(f"--peer needs {' and '.join(missing)}", "pip install 'explora[peer]'")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("transformers", "peft")]
    return _Standing(contender=Contender(run=run, stack=" + ".join(versions)))
