"""What tests of every kind share."""

from __future__ import annotations

import gc
import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models are fastest on one thread

# A shell lets its background jobs ignore Ctrl-C, and their children too: tests of Ctrl-C would never end.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SCHEMAS = Path(__file__).parents[1] / "docs" / "schemas"


def pytest_configure() -> None:
    """Register a task and a method that explora does not have: in each process, before collection.

    Every law that runs over the registry then holds for them too.
    """
    from explora.core.config.registry import METHODS, TASKS
    from tests.toy_method import NORM
    from tests.toy_task import ENTAILMENT

    TASKS["entailment"] = ENTAILMENT
    METHODS["norm-tuning"] = NORM


def pytest_collection_finish() -> None:
    """Exclude what the imports created from garbage collection, which every cell of a bench runs."""
    gc.collect()
    gc.freeze()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def objects(self) -> list[dict[str, Any]]:
        """The JSON objects on stdout, one a line."""
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What explora caches stays out of the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def few_resamples() -> Iterator[None]:
    """Draw 100 bootstrap resamples by default: the usual 1000 take longer than a tiny training."""
    from explora.core.tasks.metrics import Score

    defaults = Score.interval.__kwdefaults__
    assert defaults is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(defaults, "resamples", 100)
        yield


@pytest.fixture(scope="module")
def short_poems() -> Iterator[None]:
    """Limit the continuations of sonnets to 32 tokens: random weights end neither a line nor a poem."""
    from explora.core.tasks import sonnet

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sonnet, "MAX_NEW_TOKENS", 32)
        yield


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base of two blocks and random weights; see tiny_models."""
    from tests.tiny_models import write_tiny_base

    folder = tmp_path_factory.mktemp("tiny") / "base"
    write_tiny_base(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with TASK/train.* and TASK/dev.* for every task: a few of the sample rows."""
    from tests.tiny_models import write_tiny_data

    folder = tmp_path_factory.mktemp("data")
    write_tiny_data(folder)
    return folder


@pytest.fixture
def real_data() -> Path:
    """The folder of the real data sets, named by EXPLORA_DATA."""
    folder = os.environ.get("EXPLORA_DATA")
    if not folder:
        pytest.skip("EXPLORA_DATA is not set")
    return Path(folder)


@pytest.fixture
def explora(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Run a command in this process, in a folder of its own: `explora("params", "--json")`."""
    from explora.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Outcome:
        capsys.readouterr()
        code = main(list(arguments))
        captured = capsys.readouterr()
        return Outcome(code=code, out=captured.out, err=captured.err)

    return run


@pytest.fixture
def check_schema() -> Callable[[str, Any], None]:
    """Check a --json object of a command against the schema that docs/ publishes."""
    import jsonschema

    def check(command: str, value: Any) -> None:
        schema = json.loads((SCHEMAS / f"{command}.json").read_text(encoding="utf-8"))
        jsonschema.Draft202012Validator(schema).validate(value)

    return check
