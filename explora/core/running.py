"""One training run from its folder to its result: prepare, train, keep the best, score it, record it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from explora.core.checkpoint import has_checkpoint, trained_tensors
from explora.core.config import TrainRun
from explora.core.documents import read_documents
from explora.core.measure import describe_machine, peak_memory_bytes
from explora.core.model_card import write_card
from explora.core.recording import METRICS_FILE, RECORD_FILE, MetricsLog, Record, read_record, write_record
from explora.core.session import (
    Session,
    load_run_tokenizer,
    open_for_training,
    restore_trained,
    save_trained,
)
from explora.core.tasks.contract import Evaluation, Split
from explora.core.tokenizer import Tokenizer, train_tokenizer
from explora.core.training import (
    EvalDone,
    EvalStarted,
    Event,
    Finished,
    Saved,
    StepDone,
    Training,
    discard_checkpoint,
)
from explora.errors import TrainingError, UsageError

CHECKPOINT = "checkpoint"
VOCABULARY_DOCUMENTS = 60_000  # a byte-level vocabulary is learned from at most this many documents


@dataclass(frozen=True, kw_only=True)
class Completed:
    """The result, as `train --json` prints it, and the dev evaluation it holds."""

    result: dict[str, Any]
    evaluation: Evaluation


def prepare_folder(folder: Path, *, resume: bool, overwrite: bool) -> TrainRun | None:
    """Make the run folder ready; returns the recorded run when resuming.

    Raises UsageError for an occupied folder without `resume` or `overwrite`, and for nothing to resume.
    """
    record = read_record(folder) if folder.is_dir() else None
    if resume:
        if record is None or record.result or not has_checkpoint(folder / CHECKPOINT):
            state = "is finished" if record and record.result else "holds no resume state"
            raise UsageError(f"{folder} {state}: nothing to resume", "train again with --overwrite")
        return record.run
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not overwrite:
            raise UsageError(
                f"{folder} already holds something",
                f"continue it with --resume, replace it with --overwrite, or choose another: -o {folder}-2",
            )
        if record is None and not (folder / METRICS_FILE).exists():
            raise UsageError(
                f"{folder} is not a run folder, so --overwrite leaves it alone", "choose another: -o"
            )
        shutil.rmtree(folder)
    return None


class Running:
    """A run under way; iterate `events()` and it is trained, the last event being Completed."""

    def __init__(self, run: TrainRun, folder: Path) -> None:
        self.run, self.folder = run, folder
        self.session, self.train, self.dev = open_for_training(run, self._scratch_tokenizer())
        self.training = Training(
            self.session.model,
            self.session.task,
            run,
            self.train.examples,
            self.dev.examples,
            folder / CHECKPOINT,
        )
        self.resumed_at = self.training.progress.step
        self.log = MetricsLog(folder, self.resumed_at)
        self.machine = describe_machine()
        write_record(folder, Record(run=run, result={}, machine=self.machine))

    def _scratch_tokenizer(self) -> Tokenizer | None:
        """Return the tokenizer of a base from scratch, trained on the run's own text the first time."""
        scratch = self.run.from_scratch
        if scratch is None or self.run.tokenizer is not None:
            return None
        known = load_run_tokenizer(self.folder)
        if known is not None:
            return known
        assert self.run.data.data is not None
        documents = islice(read_documents(self.run.data.data), VOCABULARY_DOCUMENTS)
        tokenizer = train_tokenizer(documents, scratch.vocab_size)
        tokenizer.save(self.folder)
        return tokenizer

    def save(self) -> None:
        """Write the resume state now: between two events, on a signal."""
        self.training.save()

    def events(self) -> Iterator[Event | Completed]:
        """Train; keep the best on disk as it is found; score it on dev at the end."""
        for event in self.training.events():
            self._record(event)
            yield event
            if isinstance(event, Finished):
                yield self._complete(event)

    def _record(self, event: Event) -> None:
        if isinstance(event, StepDone):
            self.log.add(
                {
                    "step": event.step,
                    "loss": event.loss,
                    "learning_rate": event.learning_rate,
                    "gradient_norm": event.gradient_norm,
                    "tokens_per_second": event.tokens / event.seconds,
                }
            )
        elif isinstance(event, EvalDone):
            self.log.add({"step": event.step, event.metric: event.score, "best": event.best})
            if event.best:
                save_trained(self.session, self.folder, event.step)

    def _complete(self, finished: Finished) -> Completed:
        progress, session = finished.progress, self.session
        if progress.best_step == 0:
            raise TrainingError("the dev score was never a number", "lower the learning rate: --lr")
        restore_trained(session, self.folder)
        session.model.eval()
        evaluation = session.task.evaluate(
            session.model, self.dev.examples, self.train.examples, 2 * self.run.training.batch_size
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
            "stopped_early": finished.stopped_early,
            "examples": len(self.train.examples),
            "skipped": len(self.train.skipped) + len(self.dev.skipped),
            "seconds": round(progress.seconds, 3),
            "tokens": progress.tokens,
            "tokens_per_second": round(progress.tokens / max(progress.seconds, 1e-9), 1),
            "peak_memory_bytes": peak_memory_bytes(),
        }
        write_record(self.folder, Record(run=self.run, result=result, machine=self.machine))
        write_card(self.folder, self.run, result)
        discard_checkpoint(self.folder / CHECKPOINT)
        return Completed(result=result, evaluation=evaluation)


def plain_parameters(session: Session) -> list[Any]:
    """Return the parameters of base and head, without adapters."""
    return [value for name, value in session.model.named_parameters() if "lora_" not in name]


__all__ = [
    "RECORD_FILE",
    "Completed",
    "EvalDone",
    "EvalStarted",
    "Event",
    "Finished",
    "Running",
    "Saved",
    "Split",
    "StepDone",
    "prepare_folder",
]
