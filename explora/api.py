"""The commands as Python functions: `configure`, `train`, `sweep`, `load`, `evaluate`, `generate`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from explora.core.base.find import shape_of
from explora.core.config.concerns import DataConfig, RuntimeConfig
from explora.core.config.precedence import fit_learning_rate, resolve
from explora.core.config.run_config import TrainRun
from explora.core.generate.sampling import SamplingConfig
from explora.core.judging.continuing import continue_texts
from explora.core.runs.assemble import Session
from explora.core.runs.evaluate import recorded_data, score, with_recorded_columns
from explora.core.runs.events import RunEvent
from explora.core.runs.folder import check_folder
from explora.core.runs.open import open_run
from explora.core.runs.origin import inherit
from explora.core.runs.ownership import owning
from explora.core.runs.running import Running
from explora.core.runs.train import start_run
from explora.core.runtime.resolve import resolve_for_answers, with_resolved_runtime
from explora.core.sweeps.cells import cross
from explora.core.sweeps.run import Sweep, open_sweep
from explora.core.sweeps.several import one_or_several
from explora.core.tasks.contract import Evaluation


def configure(task: str, settings: Mapping[str, Any]) -> TrainRun:
    """Return a run with `settings`, by field name (`{"rank": 4, "data": "sst"}`), and the task's defaults.

    Raises UsageError for settings that are unknown, out of range or in conflict.
    """
    run, origins = resolve(task, settings, inherit(task, settings, {}))
    shape = run.from_scratch or shape_of(run.model)
    return fit_learning_rate(run, origins, shape.n_embd)[0]


def train(run: TrainRun, folder: str | Path, *, overwrite: bool = False) -> Iterator[RunEvent]:
    """Train into `folder` and yield events; the last event is a Completed with the TrainResult.

    The folder belongs to this training until the last event, or until the iterator is closed or deleted.
    Raises InUseError if another process trains there.
    """
    folder = Path(folder)
    with ExitStack() as stack:
        stack.enter_context(owning(folder))
        check_folder(folder, overwrite=overwrite)
        running = start_run(with_resolved_runtime(run), folder, replace=overwrite)
        return _owned_events(running, stack.pop_all())


def _owned_events(running: Running, ownership: ExitStack) -> Iterator[RunEvent]:
    with ownership:
        yield from running.events()


def sweep(task: str, settings: Mapping[str, Any], folder: str | Path, *, jobs: int = 1) -> Sweep:
    """Prepare a sweep. A list in `settings` holds several values, as in `{"rank": [4, 8], "seed": [1, 2]}`.

    Iterate over its `events()` to train the cells that have not finished; then `ranked()` returns the
    finished cells.
    """
    options = {
        name: one_or_several(value) if isinstance(value, list) else value for name, value in settings.items()
    }
    return open_sweep(task, cross(task, options).cells, Path(folder), jobs=jobs)


def load(task: str, source: str | None = None, *, model: str | None = None, amp: str = "auto") -> Session:
    """Open a run folder, a PEFT adapter or a model; by default runs/TASK if it exists, else the base."""
    runtime = resolve_for_answers(RuntimeConfig(amp=amp))
    session = open_run(task, source, model=model, tokenizer=None, runtime=runtime)
    session.settle()
    return session


def evaluate(
    session: Session, data: str | None = None, split: str | None = None, batch_size: int = 32
) -> Evaluation:
    """Score a session on a file, a folder or a known data set; by default on the data of its training."""
    trained_on = recorded_data(session.source)
    config = trained_on if data is None else with_recorded_columns(DataConfig(data=data), trained_on)
    return score(session, config, trained_on, split, batch_size).evaluation


def generate(
    session: Session,
    prompts: Sequence[str],
    sampling: SamplingConfig | None = None,
    max_new_tokens: int = 256,
    seed: int = 11711,
) -> list[str]:
    """Continue each prompt; return the new texts. The seed of a prompt is `seed` plus its index."""
    chosen = sampling or SamplingConfig()
    return continue_texts(session, prompts, chosen, seed, max_new_tokens=max_new_tokens)
