"""A run in progress: follow its training, keep the best adapter, score it at the end, record the result."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from explora.core.base.tokenizer import Tokenizer
from explora.core.config.run_config import TrainRun
from explora.core.estimate.parameters import model_tensors
from explora.core.files import empty_folder, replace_folder
from explora.core.machine.facts import peak_memory_bytes
from explora.core.runs.assemble import (
    Session,
    restore_trained,
    save_trained,
)
from explora.core.runs.events import Completed, Fitted, RunEvent, TimeIsUp
from explora.core.runs.folder import discard_pending, real_folder
from explora.core.runs.full_fine_tuning import AFTER_STEPS, FullFineTuningCost, predict_full_fine_tuning
from explora.core.runs.model_card import write_card
from explora.core.runs.record import (
    METRICS_FILE,
    MetricsLog,
    RunRecord,
    open_metrics,
    write_record,
)
from explora.core.runs.result import TrainResult
from explora.core.tasks.contract import Evaluation, Split
from explora.core.training.checkpoint import (
    discard_checkpoint,
    saved_step,
    trained_tensors,
)
from explora.core.training.events import EvalDone, Event, Finished, StepDone
from explora.core.training.loop import Training
from explora.core.training.time_budget import fit_steps
from explora.errors import TrainingError

CHECKPOINT = "checkpoint"
LATEST = 1.02  # a run ends at this multiple of its minutes at the latest


@dataclass(kw_only=True)
class Running:
    """A run in progress. Iterate over `events()` to train; the last event is Completed.

    folder: as the user named it; place: the folder with its files, beside `folder` as long as that has the
    run to replace; record: the content of run.json until there is a result; started: start of the run on the
    monotonic clock, minus the time before interruptions; closing_seconds: time needed after the last step, 0
    unless the number of steps was fitted to a time limit; processes: the number that trained together.
    """

    folder: Path
    place: Path
    record: RunRecord
    session: Session
    train: Split
    dev: Split
    training: Training
    log: MetricsLog
    started: float
    resumed_at: int
    closing_seconds: float = 0.0
    processes: int = 1
    first_steps: list[StepDone] = field(default_factory=list)
    full_fine_tuning: FullFineTuningCost | None = None

    @property
    def run(self) -> TrainRun:
        """The settings of the run, including the number of steps once it is fitted to the time limit."""
        return self.training.run

    @property
    def skipped(self) -> list[str]:
        """The messages about bad rows, each once, because train and dev may be parts of the same file."""
        return list(dict.fromkeys((*self.train.skipped, *self.dev.skipped)))

    @property
    def writes(self) -> bool:
        """Whether this process writes the files of the run."""
        return self.training.processes.leads

    def open(self, tokenizer: Tokenizer | None) -> None:
        """Write the record and start or continue the log. `tokenizer` is the run's own, if it has one."""
        write_record(self.place, self.record)
        progress = self.training.progress
        self.log = open_metrics(self.place, progress.step if progress.evaluated >= 0 else -1)
        if tokenizer is not None:
            tokenizer.save(self.place)

    def save(self) -> None:
        """Write the resume state. Call this between two events, in every process."""
        self.training.save()

    def saved_step(self) -> int:
        """Return the step from which the run can be resumed, 0 if there is no resume state."""
        return saved_step(self.folder / CHECKPOINT)

    def events(self) -> Iterator[RunEvent]:
        """Train, keep the best adapter on disk, and score it on dev at the end."""
        minutes = self.run.training.max_minutes
        if minutes is not None and self.run.training.max_steps is None:
            yield from self._fit(60 * minutes)
        for event in self.training.events():
            if isinstance(event, StepDone) and self.writes:
                self._log_step(event)
            yield event
            if isinstance(event, StepDone):
                yield from self._compare_with_full(event)
                yield from self._end_in_time(event)
            if isinstance(event, EvalDone) and self.writes:
                self._keep(event)
            if isinstance(event, Finished):
                self.processes = self.training.processes.size
                self.training.processes.leave()
            if isinstance(event, Finished) and self.writes:
                yield self._complete(event)

    def _fit(self, seconds: float) -> Iterator[Event | Fitted]:
        """Find how many steps fit into `seconds` since the run started, and schedule them."""
        yield from self.training.keep_features()
        try:
            found = fit_steps(self.training, self.started + seconds - time.monotonic())
        except TrainingError:  # no step is done yet, so restore the folder
            if self.writes:
                discard_pending(self.folder)
                empty_folder(self.place)
            raise
        self.closing_seconds = found.closing_seconds
        self.training.plan_steps(found.steps, time.monotonic() - self.started)
        if self.writes:
            self._record({})
        yield Fitted(steps=found.steps)

    def _record(self, result: Mapping[str, Any]) -> None:
        run = dataclasses.replace(self.record.run, training=self.run.training)  # with the fitted steps
        write_record(self.place, dataclasses.replace(self.record, run=run, result=result))

    def _compare_with_full(self, step: StepDone) -> Iterator[FullFineTuningCost]:
        """Predict the cost of full fine-tuning, once, after the first steps of an adapter."""
        method, shape = self.run.method, self.session.model.shape
        passes_blocks = method.first_trained_block(shape) < shape.n_layer
        if not self.writes or self.training.processes.size > 1:  # it does not apply to several processes
            return
        if method.trains_base or not passes_blocks or len(self.first_steps) == AFTER_STEPS:
            return
        self.first_steps.append(step)
        if len(self.first_steps) == AFTER_STEPS:
            self.full_fine_tuning = predict_full_fine_tuning(self.training, self.first_steps)
            yield self.full_fine_tuning

    def _end_in_time(self, step: StepDone) -> Iterator[TimeIsUp]:
        """End the run at this step if its time is up, including the time needed after the last step."""
        minutes = self.run.training.max_minutes
        if minutes is None or step.step == step.steps:
            return
        is_up = time.monotonic() - self.started + self.closing_seconds > LATEST * 60 * minutes
        if self.training.processes.decide(is_up):
            self.training.end_here()
            yield TimeIsUp(step=step.step)

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
        """Save the adapter if it is the best so far, and log the score."""
        if self.record.earlier_phases and event.step == self.training.first_step:
            return  # the earlier phase has saved these weights and logged their score
        if event.best:
            save_trained(self.session, self.place, event.step)
            self._take_place()
        self.log.add({"step": event.step, event.metric: event.score, "best": event.best})

    def _take_place(self) -> None:
        """Replace the old run, now that this one has weights to keep."""
        target = real_folder(self.folder)
        if self.place == target:
            return
        replace_folder(self.place, target)
        self.place, self.training.folder = target, target / CHECKPOINT
        self.log = MetricsLog(target / METRICS_FILE)

    def _complete(self, finished: Finished) -> Completed:
        """Score the best adapter on dev, write the record and the model card, and remove the resume state."""
        if finished.progress.best_score is None:
            raise TrainingError("the dev score was never a number", "lower the learning rate: --lr")
        session = self.session
        restore_trained(session, self.place)
        session.model.eval()
        evaluation = session.task.evaluate(
            session.model, self.training.dev, self.train.examples, 2 * self.run.training.batch_size
        )
        result = self._result(finished, evaluation)
        write_card(self.folder, self.run, result.to_json(), session.task.labels if session.classes else ())
        self._record(result.to_json())
        # A network file system cannot remove the file of features while it is mapped.
        self.training.examples, self.training.dev = self.train.examples, self.dev.examples
        discard_checkpoint(self.place / CHECKPOINT)
        return Completed(result=result)

    def _result(self, finished: Finished, evaluation: Evaluation) -> TrainResult:
        model, progress, run = self.session.model, finished.progress, self.run
        return TrainResult(
            run=str(self.folder),
            task=run.task,
            method=run.method.name,
            model=self.session.base.label,
            total=sum(prod(size) for size in model_tensors(model.shape, self.session.classes).values()),
            trainable=sum(value.numel() for value in trained_tensors(model).values()),
            evaluation=evaluation,
            best_step=progress.best_step,
            steps=progress.step,
            stopped_early=finished.stopped_early or progress.step < (run.training.max_steps or 0),
            examples=len(self.train.examples),
            skipped=len(self.skipped),
            seconds=round(progress.seconds, 3),  # as in the record: --resume then shows the same speed
            processor_seconds=round(progress.processor_seconds, 3),
            tokens=progress.tokens,
            peak_memory_bytes=max(progress.peak_memory_bytes, peak_memory_bytes()),
            full_fine_tuning=self.full_fine_tuning,
            processes=self.processes,
            global_batch=self.training.examples_per_step,
            sent_bytes=self.training.processes.sent // max(1, progress.step - self.resumed_at),
        )
