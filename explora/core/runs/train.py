"""One training run from its folder to its result: prepare, train, keep the best, score it, record it."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from explora.core.base.tokenizer import Tokenizer, train_tokenizer
from explora.core.config.run_config import TrainRun
from explora.core.data.documents import read_documents
from explora.core.data.splits import find_split
from explora.core.machine.facts import describe_machine, peak_memory_bytes
from explora.core.runs.assemble import (
    Session,
    load_run_tokenizer,
    open_for_training,
    restore_trained,
    save_trained,
)
from explora.core.runs.full_fine_tuning import AFTER_STEPS, Counterfactual, imagine_full
from explora.core.runs.model_card import write_card
from explora.core.runs.record import RECORD_FILE, MetricsLog, Record, read_record, write_record
from explora.core.tasks.contract import Evaluation, Split
from explora.core.training.checkpoint import trained_tensors
from explora.core.training.loop import (
    EvalDone,
    EvalStarted,
    Event,
    FeaturesDone,
    Finished,
    Saved,
    StepDone,
    Training,
    discard_checkpoint,
)
from explora.core.training.time_budget import fit_steps
from explora.errors import TrainingError, UsageError

CHECKPOINT = "checkpoint"
LATEST = 1.02  # of the minutes that a run has, it is to be through
VOCABULARY_DOCUMENTS = 60_000  # a byte-level vocabulary is learned from at most this many documents


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """So many steps fit into the minutes that the run has; the schedule is made for them."""

    steps: int


@dataclass(frozen=True, kw_only=True)
class TimeIsUp:
    """The machine became slower than it was when the steps were fitted: the run ends at this one."""

    step: int


@dataclass(frozen=True, kw_only=True)
class Completed:
    """The result, as `train --json` prints it, and the dev evaluation it holds."""

    result: dict[str, Any]
    evaluation: Evaluation


RunEvent = Event | Fitted | TimeIsUp | Counterfactual | Completed


def check_folder(folder: Path, *, resume: bool, overwrite: bool) -> TrainRun | None:
    """Return the recorded run when resuming, else None: the run may start in this folder.

    Raises UsageError for an occupied folder without `resume` or `overwrite`, for one that is no run's with
    `overwrite`, and for nothing to resume.
    """
    if resume and overwrite:
        raise UsageError("--resume goes on with a run and --overwrite removes it", "choose one of them")
    record = read_record(folder) if folder.is_dir() else None
    if resume:
        if record is None:
            raise UsageError(f"{folder} holds no run: nothing to resume", "start one: leave --resume out")
        if record.result:
            raise UsageError(f"{folder} is finished: nothing to resume", "train again with --overwrite")
        return record.run
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file", "a run is kept in a folder: -o FOLDER")
    if folder.exists() and any(folder.iterdir()):
        if not overwrite:
            raise UsageError(
                f"{folder} already holds something",
                f"continue it with --resume, replace it with --overwrite, or choose another: -o {folder}-2",
            )
        if record is None:
            raise UsageError(
                f"{folder} is not a run folder, so --overwrite leaves it alone", "choose another: -o"
            )
    return None


class Running:
    """A run under way; iterate `events()` and it is trained, the last event being Completed.

    It goes on from the resume state in the folder, where there is one. With `replace` what the folder
    holds is removed first, once base and data have been read. `spent`: seconds of its time that are over.
    """

    def __init__(self, run: TrainRun, folder: Path, *, replace: bool = False, spent: float = 0.0) -> None:
        self.run, self.folder = run, folder
        self.started, self.closing_seconds = time.monotonic() - spent, 0.0
        trains_tokenizer = run.from_scratch is not None and run.tokenizer is None
        tokenizer = self._own_tokenizer(replace) if trains_tokenizer else None
        self.session, self.train, self.dev = open_for_training(run, tokenizer)
        if replace:
            shutil.rmtree(folder, ignore_errors=True)
        self.training = Training(
            self.session.model,
            self.session.task,
            run,
            self.train.examples,
            self.dev.examples,
            folder / CHECKPOINT,
        )
        self.resumed_at = self.training.progress.step
        self.started -= self.training.progress.seconds
        self.machine = describe_machine()
        write_record(folder, Record(run=run, result={}, machine=self.machine))
        self.log = MetricsLog(folder, self.resumed_at)
        self.first_steps: list[StepDone] = []
        self.counterfactual: Counterfactual | None = None
        if tokenizer is not None:
            tokenizer.save(folder)

    def _own_tokenizer(self, fresh: bool) -> Tokenizer:
        """Return the tokenizer of a base from scratch, trained on the run's own text the first time."""
        known = None if fresh else load_run_tokenizer(self.folder)
        if known is not None:
            return known
        assert self.run.from_scratch is not None
        text = find_split(self.run.task, self.run.data, "train").file
        documents = islice(read_documents(text), VOCABULARY_DOCUMENTS)
        return train_tokenizer(documents, self.run.from_scratch.vocab_size)

    def save(self) -> None:
        """Write the resume state now: between two events, on a signal."""
        self.training.save()

    def events(self) -> Iterator[RunEvent]:
        """Train; keep the best on disk as it is found; score it on dev at the end."""
        minutes = self.run.training.max_minutes
        if minutes is not None and self.run.training.max_steps is None:
            yield from self._fit(60 * minutes)
        for event in self.training.events():
            if isinstance(event, StepDone):
                self._log_step(event)
            yield event
            if isinstance(event, StepDone) and self._has_seen_enough(event):
                self.counterfactual = imagine_full(self.training, self.first_steps)
                yield self.counterfactual
            if isinstance(event, StepDone) and event.step < event.steps and self._time_is_up():
                self.training.end_here()
                yield TimeIsUp(step=event.step)
            if isinstance(event, EvalDone):
                self._keep(event)
            if isinstance(event, Finished):
                yield self._complete(event)

    def _fit(self, seconds: float) -> Iterator[Event | Fitted]:
        """Make the schedule for the steps that fit into `seconds` since the run was started."""
        yield from self.training.keep_features()
        try:
            found = fit_steps(self.training, self.started + seconds - time.monotonic())
        except TrainingError:  # before any step: leave the folder as it was
            _empty(self.folder)
            raise
        self.closing_seconds = found.closing_seconds
        training = dataclasses.replace(self.run.training, max_steps=found.steps)
        self.run = dataclasses.replace(self.run, training=training)
        self.training.begin(self.run)
        self.training.progress.seconds = time.monotonic() - self.started
        write_record(self.folder, Record(run=self.run, result={}, machine=self.machine))
        yield Fitted(steps=found.steps)

    def _has_seen_enough(self, step: StepDone) -> bool:
        """Whether this is the step after which full fine-tuning can be compared with."""
        if self.run.method.method != "lora" or len(self.first_steps) == AFTER_STEPS:
            return False
        self.first_steps.append(step)
        return len(self.first_steps) == AFTER_STEPS

    def _time_is_up(self) -> bool:
        minutes = self.run.training.max_minutes
        if minutes is None:
            return False
        return time.monotonic() - self.started + self.closing_seconds > LATEST * 60 * minutes

    def _log_step(self, event: StepDone) -> None:
        self.log.add(
            {
                "step": event.step,
                "loss": event.loss,
                "learning_rate": event.learning_rate,
                "gradient_norm": event.gradient_norm,
                "tokens_per_second": event.tokens / event.seconds,
            }
        )

    def _keep(self, event: EvalDone) -> None:
        """Log an evaluation and keep what gave the best one; a run stopped before this evaluates again."""
        if event.best:
            save_trained(self.session, self.folder, event.step)
        self.log.add({"step": event.step, event.metric: event.score, "best": event.best})

    def _complete(self, finished: Finished) -> Completed:
        progress, session = finished.progress, self.session
        if progress.best_step == 0:
            raise TrainingError("the dev score was never a number", "lower the learning rate: --lr")
        restore_trained(session, self.folder)
        session.model.eval()
        evaluation = session.task.evaluate(
            session.model, self.training.dev, self.train.examples, 2 * self.run.training.batch_size
        )
        trainable = sum(value.numel() for value in trained_tensors(session.model).values())
        own_head = session.model.score.weight.numel() if session.model.score is not None else 0
        total = sum(value.numel() for value in plain_parameters(session)) - own_head
        result = {
            "run": str(self.folder),
            "task": self.run.task,
            "method": self.run.method.method,
            "model": session.base.label,
            "total": total,
            "trainable": trainable,
            "share": trainable / total,
            "scores": evaluation.scores,
            "intervals": {name: list(ends) for name, ends in evaluation.intervals.items()},
            "floors": dict(evaluation.floors),
            "best_step": progress.best_step,
            "steps": progress.step,
            "stopped_early": finished.stopped_early or progress.step < (self.run.training.max_steps or 0),
            "examples": len(self.train.examples),
            "skipped": len(self.train.skipped) + len(self.dev.skipped),
            "seconds": round(progress.seconds, 3),
            "tokens": progress.tokens,
            "tokens_per_second": round(progress.tokens / max(progress.seconds, 1e-9), 1),
            "peak_memory_bytes": peak_memory_bytes(),
            "full_fine_tuning": dataclasses.asdict(self.counterfactual) if self.counterfactual else None,
        }
        classes = 0 if session.model.score is None else session.model.score.out_features
        write_card(self.folder, self.run, result, classes)
        write_record(self.folder, Record(run=self.run, result=result, machine=self.machine))
        discard_checkpoint(self.folder / CHECKPOINT)
        return Completed(result=result, evaluation=evaluation)


def _empty(folder: Path) -> None:
    for item in folder.iterdir():
        if item.is_dir():
            shutil.rmtree(item)
        else:
            item.unlink()


def plain_parameters(session: Session) -> list[Any]:
    """Return the parameters of base and head, without adapters."""
    return [value for name, value in session.model.named_parameters() if "lora_" not in name]


__all__ = [
    "RECORD_FILE",
    "Completed",
    "Counterfactual",
    "EvalDone",
    "EvalStarted",
    "Event",
    "FeaturesDone",
    "Finished",
    "Fitted",
    "RunEvent",
    "Running",
    "Saved",
    "Split",
    "StepDone",
    "TimeIsUp",
    "check_folder",
]
