"""What tests of every kind share."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models are fastest on one thread

SCHEMAS = Path(__file__).parents[1] / "docs" / "schemas"


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
