"""Make the paths in a run's settings absolute, so that its base and data are found from any directory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from explora.core.config.concerns import DataConfig
from explora.core.config.registry import EMBEDDED, MODELS
from explora.core.config.run_config import TrainRun
from explora.core.data.known_datasets import SOURCES
from explora.errors import UsageError


def with_absolute_paths(run: TrainRun) -> TrainRun:
    """Return the run with absolute paths of its base, tokenizer and data. Names do not change."""
    from explora.core.base.find import RANDOM  # loads tokenizers, which --help does not need

    named = run.model in (EMBEDDED, *MODELS) or run.model.startswith(RANDOM)
    return replace(
        run,
        model=run.model if named else _absolute(str(Path(run.model).expanduser())),
        tokenizer=run.tokenizer and _absolute(run.tokenizer),
        from_run=run.from_run and _absolute(run.from_run),
        data=with_absolute_data(run.data),
    )


def with_absolute_data(config: DataConfig) -> DataConfig:
    """Return the data settings with absolute paths. The names of known data sets do not change."""
    data = config.data if config.data in SOURCES else config.data and _absolute(config.data)
    return replace(config, data=data, dev=config.dev and _absolute(config.dev))


def _absolute(path: str) -> str:
    """Return the absolute path of an existing file; other text may be a name, or an error reported later."""
    return str(Path(path).absolute()) if Path(path).exists() else path


def read_by(run: TrainRun) -> tuple[str | None, ...]:
    """Return the paths and names of the inputs of a run; None for inputs that it does not have."""
    return run.model, run.tokenizer, run.from_run, run.data.data, run.data.dev


def check_utf8(run: TrainRun, folder: Path) -> None:
    """Raise UsageError for a path that is not UTF-8, because neither JSON nor safetensors can store it."""
    for path in (folder, *read_by(run)):
        try:
            str(path or "").encode()
        except UnicodeEncodeError:
            raise UsageError(f"the path {str(path)!r} is not UTF-8", "rename the file or folder") from None
