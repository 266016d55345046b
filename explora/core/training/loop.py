"""The training loop, a generator of events. It prints nothing and calls nobody back."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from explora.core.config.run_config import TrainRun
from explora.core.data.batching import epoch_batches
from explora.core.model.gpt2 import GPT2
from explora.core.tasks.contract import Example, Task
from explora.core.training.adamw import Optimizer
from explora.core.training.checkpoint import Progress, has_checkpoint, load_checkpoint, save_checkpoint
from explora.core.training.feature_cache import plan_feature_cache
from explora.core.training.optimizers import make_optimizers, schedule_factor
from explora.errors import TrainingError

INITIAL_LOSS_SCALE = 2.0**13
FEATURES_FILE = "features.bin"


@dataclass(frozen=True, kw_only=True)
class FeaturesDone:
    """The frozen blocks have read this many of the examples of train and dev, before the next step."""

    step: int
    examples: int
    of: int


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """One optimizer step: loss per item in nats, tokens read in it, seconds it took."""

    step: int
    steps: int
    epoch: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class EvalStarted:
    """An evaluation comes next; until its EvalDone the state to save is that after `step`."""

    step: int


@dataclass(frozen=True, kw_only=True)
class EvalDone:
    """The dev score after a step; `best` when it is better than all before.

    It counts once the next event is asked for: by then the caller has kept the best.
    """

    step: int
    metric: str
    score: float
    best: bool


@dataclass(frozen=True, kw_only=True)
class Saved:
    """The resume state was written."""

    step: int


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The run is complete; `stopped_early` when patience ran out."""

    progress: Progress
    stopped_early: bool


Event = FeaturesDone | StepDone | EvalStarted | EvalDone | Saved | Finished


class Training:
    """A model, its optimizers and where they stand; iterate `events()` to train.

    The caller keeps the best adapter when an EvalDone says `best`, and may call `save()` between two
    events: the steps that have been yielded by then are in the state.
    """

    def __init__(
        self,
        model: GPT2,
        task: Task,
        run: TrainRun,
        train: Sequence[Example],
        dev: Sequence[Example],
        checkpoint: Path,
    ) -> None:
        self.model, self.task = model, task
        self.examples, self.dev, self.folder = train, dev, checkpoint
        self.lengths = [len(example.ids) for example in train]
        self.trained = [value for value in model.parameters() if value.requires_grad]
        self.begin(run)
        # An epoch that is not repeated gains nothing from what is kept.
        self.feature_cache = (
            plan_feature_cache(model, task, run, train, dev, checkpoint / FEATURES_FILE)
            if self.steps > self.steps_per_epoch or run.training.max_minutes is not None
            else None
        )
        if has_checkpoint(checkpoint):
            self.progress, scaler = load_checkpoint(checkpoint, model, self.optimizers)
            if scaler:
                self.scaler.load_state_dict(scaler)

    def begin(self, run: TrainRun) -> None:
        """Stand before the first step of `run`, with the weights as they are."""
        self.run, self.progress = run, Progress()
        self.model.grad_checkpoint = run.runtime.grad_checkpoint
        self.group = run.training.batch_size * run.training.accumulate
        self.steps_per_epoch: int = math.ceil(len(self.lengths) / self.group)
        wanted = run.training.max_steps
        self.steps: int = wanted if wanted is not None else run.training.epochs * self.steps_per_epoch
        self.optimizers: list[Optimizer] = make_optimizers(self.model, run.method, run.optimizer)
        self.base_rates = [group["lr"] for o in self.optimizers for group in o.param_groups]
        self.factor = schedule_factor(run.optimizer, self.steps)
        self.scaler: torch.amp.GradScaler = torch.amp.GradScaler(
            self.model.device.type, init_scale=INITIAL_LOSS_SCALE, enabled=run.runtime.amp == "fp16"
        )

    def end_here(self) -> None:
        """Let the step just taken be the last: it is evaluated, and the training finished."""
        self.steps = self.progress.step

    def save(self) -> None:
        """Write the resume state."""
        save_checkpoint(self.folder, self.model, self.optimizers, self.progress, self.scaler.state_dict())

    def events(self) -> Iterator[Event]:
        """Train until done: a StepDone a step, an EvalDone and a Saved at each evaluation."""
        seed, at = self.run.training.seed, self.progress
        yield from self.keep_features()
        order = epoch_batches(self.lengths, self.group, seed, at.epoch)
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
                order = epoch_batches(self.lengths, self.group, seed, at.epoch)
            yield self.take_step(order[at.batch])
            if self._save_is_due() and not self._eval_is_due():  # which saves by itself
                self.save()
                yield Saved(step=at.step)
        self.model.eval()
        yield Finished(progress=at, stopped_early=at.step < self.steps)

    def keep_features(self) -> Iterator[FeaturesDone]:
        """Compute what the frozen blocks make of the examples, which then carry it; once."""
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
        return self.progress.step % every == 0 or self.progress.step == self.steps

    def _save_is_due(self) -> bool:
        every = self.run.training.save_every
        return every is not None and self.progress.step % every == 0

    def _out_of_patience(self) -> bool:
        patience = self.run.training.patience
        return patience is not None and self.progress.unimproved >= patience

    def take_step(self, rows: Sequence[int]) -> StepDone:
        """Take one optimizer step on the examples of `rows`, in micro-batches of the batch size."""
        started, at, size = time.perf_counter(), self.progress, self.run.training.batch_size
        device = self.model.device
        if not self.model.training:  # which visits every module
            self.model.train()
        batches = [
            self.task.collate([self.examples[row] for row in rows[i : i + size]], at.epoch).to(device)
            for i in range(0, len(rows), size)
        ]
        weight = max(1, sum(batch.weight for batch in batches))
        rate = self._set_learning_rate(at.step)
        total = 0.0
        for batch in batches:
            loss = self.task.loss(self.model, batch) / weight
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        if not math.isfinite(total):
            raise self._diverged(f"the loss is {total}")
        norm = self._update()
        seconds = time.perf_counter() - started
        tokens = sum(batch.tokens for batch in batches)
        at.step, at.batch = at.step + 1, at.batch + 1
        at.tokens, at.seconds = at.tokens + tokens, at.seconds + seconds
        return StepDone(
            step=at.step,
            steps=self.steps,
            epoch=at.epoch,
            loss=total,
            learning_rate=rate,
            gradient_norm=norm,
            tokens=tokens,
            seconds=seconds,
        )

    def _set_learning_rate(self, step: int) -> float:
        factor = self.factor(step)
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        for group, rate in zip(groups, self.base_rates, strict=True):
            group["lr"] = rate * factor
        return self.run.optimizer.learning_rate * factor

    def _update(self) -> float:
        """Clip, step, and forget the gradients; returns their norm before clipping."""
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)  # type: ignore[arg-type]  # it asks for param_groups alone
        clip = self.run.optimizer.clip or math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(self.trained, clip))
        if not math.isfinite(norm) and not self.scaler.is_enabled():  # the scaler skips such a step itself
            raise self._diverged(f"the norm of the gradient is {norm}")
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)  # type: ignore[arg-type]
            optimizer.zero_grad()
        self.scaler.update()
        return norm

    def _diverged(self, what: str) -> TrainingError:
        lower = f"lower the learning rate (--lr {self.run.optimizer.learning_rate / 3:.1g})"
        in_fp32 = "" if self.run.runtime.amp == "off" else ", or train in fp32 (--amp off)"
        return TrainingError(f"{what} at step {self.progress.step + 1}", lower + in_fp32)

    def _evaluate(self) -> EvalDone:
        started, at = time.perf_counter(), self.progress
        self.model.eval()
        score = self.task.dev_score(self.model, self.dev, 2 * self.run.training.batch_size)
        at.seconds += time.perf_counter() - started
        return EvalDone(step=at.step, metric=self.task.metric, score=score, best=self._is_best(score))

    def _is_best(self, score: float) -> bool:
        best = self.progress.best_score
        if best is None or not math.isfinite(score):
            return math.isfinite(score)
        return score > best if self.task.higher_is_better else score < best

    def _accept(self, evaluated: EvalDone) -> None:
        """Note an evaluation; until here it is as if it had not been made, and a resumed run repeats it."""
        at = self.progress
        if evaluated.best:
            at.best_score, at.best_step = evaluated.score, evaluated.step
        at.unimproved = 0 if evaluated.best else at.unimproved + 1
        at.evaluated = evaluated.step


def discard_checkpoint(folder: Path) -> None:
    """Remove the resume state and the kept features of a finished run."""
    shutil.rmtree(folder, ignore_errors=True)
