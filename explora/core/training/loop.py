"""The training loop: a generator of events."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from explora.core.config.run_config import TrainRun
from explora.core.data.batching import epoch_batches
from explora.core.model.gpt2 import GPT2
from explora.core.runtime.processes import Processes
from explora.core.runtime.resolve import require_determinism
from explora.core.tasks.contract import Batch, Example, Task
from explora.core.training.adamw import Optimizer
from explora.core.training.checkpoint import (
    Progress,
    generator_states,
    has_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from explora.core.training.events import EvalDone, EvalStarted, Event, FeaturesDone, Finished, Saved, StepDone
from explora.core.training.feature_cache import FeatureCache, plan_feature_cache
from explora.core.training.optimizers import make_optimizers, schedule_factor
from explora.core.training.timing import Phase, untimed
from explora.errors import TrainingError

INITIAL_LOSS_SCALE = 2.0**13
FEATURES_FILE = "features.bin"


class Training:
    """The state of a training: model, optimizers, schedule and progress. Iterate over `events()` to train.

    Call `resume` and `plan_features` first if the training has a folder. When an EvalDone is `best`, the
    caller saves the adapter. Between two events, the caller may call `save()`: the state includes every step
    that has been yielded.

    `start` is the progress at which the steps begin, if not 0; optimizer and schedule are new there. If
    `start.evaluated` is below `start.step`, the first weights are scored, too. `phase` is entered for the
    parts of a step: "collate", "forward", "backward" and "optimizer".
    """

    def __init__(
        self,
        model: GPT2,
        task: Task,
        run: TrainRun,
        train: Sequence[Example],
        dev: Sequence[Example],
        checkpoint: Path,
        phase: Phase = untimed,
        start: Progress | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.model, self.task, self.run = model, task, run
        self.examples, self.dev = train, dev
        self.folder, self.phase = checkpoint, phase
        self.processes = processes or Processes()
        self.lengths = [len(example.ids) for example in train]
        self.trained = [value for value in model.parameters() if value.requires_grad]
        self.examples_per_step = run.training.batch_size * run.training.accumulate
        self.steps_per_epoch = run.training.steps_per_epoch(len(train))
        self.progress = start or Progress()
        self.first_step, self.steps = self.progress.step, run.training.steps(len(train))
        self.learning_rate = run.optimizer.learning_rate
        self.factor = schedule_factor(run.optimizer, self.steps - self.first_step)
        self.optimizers: list[Optimizer] = make_optimizers(model, run.method, run.optimizer)
        self.scaler = self.new_scaler()
        self.feature_cache: FeatureCache | None = None
        self._counted = time.process_time()

    def new_scaler(self) -> torch.amp.GradScaler:
        """Return a new loss scaler; only fp16 needs one."""
        enabled = self.run.runtime.amp == "fp16"
        return torch.amp.GradScaler(self.model.device.type, init_scale=INITIAL_LOSS_SCALE, enabled=enabled)

    def resume(self) -> None:
        """Restore the saved state, if there is one. Raises CheckpointError if it does not fit."""
        if not has_checkpoint(self.folder):
            return
        rank = self.processes.rank
        self.progress, scaler = load_checkpoint(self.folder, self.model, self.optimizers, rank)
        if scaler:
            self.scaler.load_state_dict(scaler)

    def plan_features(self) -> None:
        """Plan the feature cache of the frozen blocks, if examples are read more than once."""
        if self.processes.size > 1:  # each process would need the features of all examples
            return
        if self.steps > self.steps_per_epoch or self.run.training.max_minutes is not None:
            file = self.folder / FEATURES_FILE
            self.feature_cache = plan_feature_cache(
                self.model, self.task, self.run, self.examples, self.dev, file
            )

    def plan_steps(self, steps: int, seconds: float) -> None:
        """Set the total number of steps, before the first one. `seconds` is the time used so far."""
        settings = dataclasses.replace(self.run.training, max_steps=steps)
        self.run = dataclasses.replace(self.run, training=settings)
        self.steps, self.factor = steps, schedule_factor(self.run.optimizer, steps)
        self.progress.seconds = seconds

    def end_here(self) -> None:
        """Make the latest step the last one: the loop then evaluates and finishes."""
        self.steps = self.progress.step

    def save(self) -> None:
        """Write the resume state. All processes call this, and only the leading one writes."""
        now = time.process_time()
        self.progress.processor_seconds += now - self._counted
        self._counted = now
        generators = self.processes.gather(generator_states(self.model.device))
        if self.processes.leads:
            scaler = self.scaler.state_dict()
            save_checkpoint(self.folder, self.model, self.optimizers, self.progress, scaler, generators)

    def events(self) -> Iterator[Event]:
        """Train to the end; yield the events of each step, evaluation and saved state."""
        seed, at = self.run.training.seed, self.progress
        yield from self.keep_features()
        order = epoch_batches(self.lengths, self.examples_per_step, seed, at.epoch)
        while True:
            if at.step > at.evaluated and self._eval_is_due():
                yield EvalStarted(step=at.step)
                evaluated = self._evaluate()
                yield evaluated
                self._accept(evaluated)
                self.save()
                yield Saved(step=at.step)
            if at.step >= self.steps or self._out_of_patience():
                break
            if at.batch == len(order):
                at.epoch, at.batch = at.epoch + 1, 0
                order = epoch_batches(self.lengths, self.examples_per_step, seed, at.epoch)
            yield self.take_step(order[at.batch], at.epoch)
            if self._save_is_due() and not self._eval_is_due():  # an evaluation includes a save
                self.save()
                yield Saved(step=at.step)
        self.model.eval()
        yield Finished(progress=at, stopped_early=at.step < self.steps)

    def keep_features(self) -> Iterator[FeaturesDone]:
        """Compute the features of all examples, if a cache is planned and empty, and attach them."""
        cache = self.feature_cache
        if cache is None or not cache.fits or self.examples[0].features is not None:
            return
        started = time.perf_counter()
        for done in cache.fill():
            self.progress.seconds += time.perf_counter() - started
            yield FeaturesDone(step=self.progress.step, examples=done, of=len(cache.examples))
            started = time.perf_counter()
        examples = cache.attach()
        self.examples, self.dev = examples[: len(self.examples)], examples[len(self.examples) :]

    def _eval_is_due(self) -> bool:
        every = self.run.training.eval_every or self.steps_per_epoch
        return self.progress.step % every == 0 or self.progress.step in (self.first_step, self.steps)

    def _save_is_due(self) -> bool:
        every = self.run.training.save_every
        return every is not None and self.progress.step % every == 0

    def _out_of_patience(self) -> bool:
        patience = self.run.training.patience
        return patience is not None and self.progress.unimproved >= patience

    def take_step(self, rows: Sequence[int], epoch: int) -> StepDone:
        """Take one optimizer step on the examples of `rows`, in micro-batches of the batch size.

        Raises TrainingError if the loss or the gradient is not finite.
        """
        started, at = time.perf_counter(), self.progress
        if not self.model.training:  # train() is slow: it visits every module
            self.model.train()
        batches = self.collate(self.processes.share(rows), epoch)
        items, tokens = self._totals(batches)
        rate = self._set_learning_rate(at.step)
        losses = self.accumulate(batches, items)
        with self.phase("optimizer"):
            losses = self.processes.add_gradients(self.trained, losses)
            loss, norm = self._read(losses, self.clip())
            self.update(norm)
        seconds = time.perf_counter() - started
        at.step, at.batch = at.step + 1, at.batch + 1
        at.tokens, at.seconds = at.tokens + tokens, at.seconds + seconds
        return StepDone(
            step=at.step,
            steps=self.steps,
            epoch=epoch,
            loss=loss,
            items=items,
            learning_rate=rate,
            gradient_norm=norm,
            tokens=tokens,
            seconds=seconds,
        )

    def collate(self, rows: Sequence[int], epoch: int) -> list[Batch]:
        """Return the examples of `rows` as micro-batches on the model's device."""
        size = self.run.training.batch_size
        chosen = [self.examples[row] for row in rows]
        with self.phase("collate"):
            batches = [self.task.collate(chosen[i : i + size], epoch) for i in range(0, len(rows), size)]
            return [batch.to(self.model.device) for batch in batches]

    def _totals(self, batches: Sequence[Batch]) -> tuple[int, int]:
        """Return the number of items, at least 1, and of tokens in the batches of all processes."""
        counts = [sum(batch.weight for batch in batches), sum(batch.tokens for batch in batches)]
        items, tokens = self.processes.add_up(np.array(counts)).tolist()
        return max(1, items), tokens

    def _set_learning_rate(self, step: int) -> float:
        rate = self.learning_rate * self.factor(step - self.first_step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["rate_factor"]
        return rate

    def accumulate(self, batches: Sequence[Batch], items: int) -> list[Tensor]:
        """Add up the gradients of the mean loss over all `items`. Returns each batch's part of that loss."""
        with require_determinism(self.model.device):
            return [self._accumulate(batch, items) for batch in batches]

    def _accumulate(self, batch: Batch, items: int) -> Tensor:
        with self.phase("forward"):
            loss = self.task.loss(self.model, batch) / items
        with self.phase("backward"):
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def clip(self) -> Tensor:
        """Clip the gradients. Returns their norm before clipping."""
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)  # type: ignore[arg-type]  # it only needs param_groups
        return torch.nn.utils.clip_grad_norm_(self.trained, self.run.optimizer.clip or math.inf)

    def _read(self, losses: Sequence[Tensor], norm: Tensor) -> tuple[float, float]:
        """Return the loss and the norm of the gradient. Only this part of a step waits for a GPU.

        Raises TrainingError if one is not finite; in fp16 the norm may be, after a too large loss scale.
        """
        *parts, gradient_norm = torch.stack([*losses, norm]).tolist()
        loss = sum(parts, 0.0)
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {loss}")
        if not math.isfinite(gradient_norm) and not self.scaler.is_enabled():
            raise self._diverged(f"the norm of the gradient is {gradient_norm}")
        return loss, gradient_norm

    def update(self, norm: float) -> None:
        """Step all optimizers, unless the gradients' `norm` is not finite, and remove the gradients."""
        for optimizer in self.optimizers:
            if math.isfinite(norm):
                optimizer.step()
            optimizer.zero_grad()
        self.scaler.update()

    def _diverged(self, what: str) -> TrainingError:
        lower = f"lower the learning rate (--lr {self.run.optimizer.learning_rate / 3:.1g})"
        in_fp32 = "" if self.run.runtime.amp == "off" else ", or train in fp32 (--amp off)"
        return TrainingError(f"{what} at step {self.progress.step + 1}", lower + in_fp32)

    def _evaluate(self) -> EvalDone:
        started, at = time.perf_counter(), self.progress
        self.model.eval()
        score = self._dev_score()
        at.seconds += time.perf_counter() - started
        return EvalDone(step=at.step, metric=self.task.metric, score=score, best=self._is_best(score))

    def _dev_score(self) -> float:
        """Score the dev examples. Each process scores its share of them."""
        is_shared = len(self.dev) >= self.processes.size  # otherwise a process would have no example
        dev = self.processes.share(self.dev) if is_shared else self.dev
        score = self.task.dev_score(self.model, dev, 2 * self.run.training.batch_size)
        return score.formula(self.processes.add_up(score.sums)) if is_shared else score.value

    def _is_best(self, score: float) -> bool:
        best = self.progress.best_score
        if best is None or not math.isfinite(score):
            return math.isfinite(score)
        return score > best if self.task.higher_is_better else score < best

    def _accept(self, evaluated: EvalDone) -> None:
        """Record an evaluation. A run that stops before this call repeats the evaluation when it resumes."""
        at = self.progress
        if evaluated.best:
            at.best_score = evaluated.score
            at.best_step = at.best_step if evaluated.step == self.first_step else evaluated.step
        at.unimproved = 0 if evaluated.best else at.unimproved + 1
        at.evaluated = evaluated.step
