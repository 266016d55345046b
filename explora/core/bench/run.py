"""A whole bench: cells, then lessons, then comparisons and a verdict. It prints nothing."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from explora.core.base.find import Base, base_tokenizer, open_base
from explora.core.bench.comparisons import Comparison, compare_rows
from explora.core.bench.lessons import Learned, Lesson
from explora.core.bench.measurements import Cell, Contender, Measurement, varying
from explora.core.bench.other_load import OtherLoad
from explora.core.bench.plan import LEARNING_SECONDS, START_SECONDS, Plan
from explora.core.bench.protocol import ask
from explora.core.bench.rows import BenchRow, summarise
from explora.core.bench.shared_rows import sample, write_sample
from explora.core.bench.standings import Group, Standing, groups_of
from explora.core.bench.verdict import verdict
from explora.core.config.concerns import DataConfig
from explora.core.config.registry import TASKS
from explora.core.machine.facts import describe_machine
from explora.core.machine.malloc import TUNABLES
from explora.core.runs.assemble import make_task
from explora.core.runtime.resolve import resolve_runtime
from explora.core.tasks.contract import Example
from explora.errors import TrainingError, UsageError

CELL = "explora.core.bench.cell_process"
REFERENCE = "explora.core.bench.peer_reference"
PEER = "explora.core.bench.peer_process"
QUALITY = "explora.core.bench.lesson_process"
SAME_LOSS = 1e-3


@dataclass(frozen=True, kw_only=True)
class CellDone:
    """A cell has ended: its number, its contender, and its speed or the reason of its failure.

    A contender that failed is not run again; `is_new` means that it failed in this cell.
    """

    done: int
    cells: int
    contender: str
    repeat: int
    tokens_per_second: float
    error: str
    is_new: bool


@dataclass(frozen=True, kw_only=True)
class LessonDone:
    """A lesson has ended: its number, its contender, and its scores or the reason of its failure."""

    done: int
    lessons: int
    contender: str
    learned: Learned | None
    error: str


@dataclass(frozen=True, kw_only=True)
class Result:
    """All rows, their comparisons, the machine, and the verdict as a list of sentences."""

    rows: list[BenchRow]
    comparisons: list[Comparison]
    machine: dict[str, Any]
    verdict: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return the object of `bench --json`."""
        return {
            "rows": [row.to_json() for row in self.rows],
            "comparisons": [each.to_json() for each in self.comparisons],
            "machine": self.machine,
            "verdict": " ".join(self.verdict),
        }


def open_bench(plan: Plan, scratch: Path) -> Bench:
    """Open base and data once, so that errors in them are reported before any cell starts.

    `scratch` is an empty folder for the files that the processes share. Raises UsageError, DataError or
    WeightsError.
    """
    plan.check()
    base, examples = _survey(plan)
    resolved = _on_this_machine(plan)
    groups = groups_of(resolved)
    data = _shared_data(examples, plan, scratch / "data")
    return Bench(resolved, groups, base=base, data=data, examples=len(examples), scratch=scratch)


class Bench:
    """A bench in progress: iterate over `measure()`, then `learn()` if the plan has it; call `result()`.

    `examples` is the number of training examples, `data` the sample of them that every cell reads.
    """

    def __init__(
        self,
        plan: Plan,
        groups: list[Group],
        *,
        base: Base,
        data: DataConfig,
        examples: int,
        scratch: Path,
    ) -> None:
        self.plan, self.groups, self.base, self.data = plan, groups, base, data
        self.examples, self.scratch = examples, scratch
        self.varying = varying(plan.settings)
        self.done, self.load = 0, OtherLoad()
        self.busy_elsewhere = 0.0

    def called(self, contender: Contender) -> str:
        """Return the name of a contender, with those values of its setting that differ in this bench."""
        setting = contender.setting.described(self.varying)
        return f"{contender.name}, {setting}" if setting else contender.name

    # speed and memory

    def measure(self) -> Iterator[CellDone]:
        """Measure every contender once, then all again, every second time in reverse order.

        Without a number of steps, the repeats end when time is up, so that load by other programs does not
        delay the result. Every contender runs at least once.
        """
        started, self.load = time.monotonic(), OtherLoad()
        turns = [(group, each) for group in self.groups for each in group.standings]
        for repeat in range(self.plan.repeats):
            for group, standing in turns[::-1] if repeat % 2 else turns:
                if repeat and self._time_is_up(time.monotonic() - started):
                    return
                yield self._cell_done(group, standing, repeat)

    def _time_is_up(self, seconds: float) -> bool:
        """Return whether to leave out the remaining repeats because the machine has become slow."""
        return self.plan.steps is None and not self.plan.peer and seconds > self.plan.most_seconds

    def _cell_done(self, group: Group, standing: Standing, repeat: int) -> CellDone:
        is_new = not standing.error
        if is_new:
            self._measure(group, standing)
        self.done, self.busy_elsewhere = self.done + 1, self.load.processors()
        last = standing.found[-1] if standing.found else None
        return CellDone(
            done=self.done,
            cells=self.plan.cells,
            contender=self.called(standing.contender),
            repeat=repeat + 1,
            tokens_per_second=last.tokens / last.seconds if last else 0.0,
            error=standing.error,
            is_new=is_new,
        )

    def _measure(self, group: Group, standing: Standing) -> None:
        try:
            if standing is group.peer:
                self._measure_peer(group, standing)
            else:
                self._measure_own(group, standing)
        except TrainingError as error:
            standing.error = error.message

    def _measure_own(self, group: Group, standing: Standing) -> None:
        """Measure a contender; the first finished cell of a group sets the number of steps of the others."""
        found = Measurement.from_json(ask(CELL, self._cell(group, standing.contender).to_json(), TUNABLES))
        earlier = [other.found[0].rows for other in group.own if other.found]
        if earlier and earlier[0] != found.rows:
            raise TrainingError("it read other rows than the first method, so they are not comparable")
        group.steps = found.steps
        standing.found.append(found)

    def _cell(self, group: Group, contender: Contender) -> Cell:
        run = dataclasses.replace(contender.run, data=self.data)
        return Cell(run=run, length=contender.length, steps=group.steps, seconds=self.plan.cell_seconds)

    def _measure_peer(self, group: Group, standing: Standing) -> None:
        if group.steps is None:
            raise TrainingError("there is no measured contender of explora to compare it with")
        if not group.reference:
            cell = self._cell(group, standing.contender)
            group.reference = ask(REFERENCE, {"cell": cell.to_json(), "folder": str(self.scratch / "base")})
        run = standing.contender.run
        found = Measurement.from_json(ask(PEER, {"run": run.to_json(), **group.reference}))
        ours = group.reference["loss"]
        if not abs(found.first_loss - ours) <= SAME_LOSS:
            raise TrainingError(
                f"not compared: its loss on the first batch is {found.first_loss:.6f}, "
                f"explora's {ours:.6f} (fp32)"
            )
        standing.found.append(found)

    # what is learned

    def lessons(self) -> tuple[int, float]:
        """Return the number of lessons and their approximate duration in seconds, without scoring."""
        seconds = sum(
            len(group.timed) * (self.lesson_steps(group) * group.longest_step + START_SECONDS)
            for group in self.groups
        )
        return sum(len(group.timed) for group in self.groups), seconds

    def lesson_steps(self, group: Group) -> int:
        """Return the given number of steps, or as many as fit into a group's time and the task's epochs."""
        if self.plan.lesson_steps is not None:
            return self.plan.lesson_steps
        training = group.own[0].contender.run.training
        whole = training.epochs * math.ceil(self.examples / training.batch_size)
        seconds = len(group.timed) * group.longest_step
        return max(1, min(whole, int(LEARNING_SECONDS / len(self.groups) / max(seconds, 1e-9))))

    def learn(self) -> Iterator[LessonDone]:
        """Train the slowest of each group first, because its time applies to the others."""
        done, (lessons, _) = 0, self.lessons()
        for group in self.groups:
            steps, seconds = self.lesson_steps(group), tuple[float, ...]()
            for standing in reversed(group.timed):
                error = _teach(standing, Lesson(run=standing.contender.run, steps=steps, seconds=seconds))
                if standing.learned:
                    seconds = standing.learned.seconds
                done += 1
                yield LessonDone(
                    done=done,
                    lessons=lessons,
                    contender=self.called(standing.contender),
                    learned=standing.learned,
                    error=error,
                )

    def result(self) -> Result:
        """Return the results. Raises TrainingError if no cell could be measured."""
        standings = [each for group in self.groups for each in group.standings]
        if not any(standing.found for standing in standings):
            first = standings[0]
            raise TrainingError(f"no cell could be measured; {first.contender.name}: {first.error}")
        rows = summarise([each for group in self.groups for each in group.outcomes()], self.base.label)
        machine = {**describe_machine(), "busy_elsewhere": round(self.busy_elsewhere, 2)}
        comparisons = compare_rows(rows)
        said = verdict(rows, comparisons, machine)
        if self.done < self.plan.cells:
            said.append(f"Time was up after {self.done} of {self.plan.cells} cells.")
        return Result(rows=rows, comparisons=comparisons, machine=machine, verdict=said)


def _teach(standing: Standing, lesson: Lesson) -> str:
    """Train one contender; return the reason if it failed, else an empty string."""
    try:
        learned = Learned.from_json(ask(QUALITY, lesson.to_json(), TUNABLES))
    except TrainingError as error:
        return error.message
    standing.learned = learned if lesson.seconds else learned.timed_by_itself()
    return ""


def _survey(plan: Plan) -> tuple[Base, Sequence[Example]]:
    """Open base and rows of the first run. Raises UsageError, DataError or WeightsError."""
    run = plan.contenders[0].run
    base = open_base(run.model)
    context = base.shape.n_positions
    for each in plan.contenders:
        each.run.method.check_fit(base.shape)
    for length in {each.length for each in plan.contenders if each.length is not None}:
        if length > context:
            raise UsageError(f"--lengths {length}: {base.label} reads at most {context} tokens")
    tokenizer = base_tokenizer(base, run.tokenizer)
    task = make_task(run.task, tokenizer, run.encoding, run.method, context, run.training.seed)
    return base, task.load(run.data, "train").examples


def _on_this_machine(plan: Plan) -> Plan:
    """Resolve every runtime once, so that cells with equal settings get equal values."""
    runtimes = {each.run.runtime for each in plan.contenders}
    resolved = {runtime: resolve_runtime(runtime) for runtime in runtimes}
    contenders = [
        dataclasses.replace(each, run=dataclasses.replace(each.run, runtime=resolved[each.run.runtime]))
        for each in plan.contenders
    ]
    return dataclasses.replace(plan, contenders=tuple(contenders))


def _shared_data(examples: Sequence[Example], plan: Plan, folder: Path) -> DataConfig:
    """Return the data for all cells: a sample written to `folder`, or the whole of a memory-mapped text."""
    first = plan.contenders[0].run
    if TASKS[first.task].stream:
        return first.data
    by_size = {each.run.training.batch_size: each.run for each in plan.contenders}
    return write_sample(sample(examples, list(by_size.values())), folder)
