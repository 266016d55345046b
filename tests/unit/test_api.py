"""The Python API is lazy and complete."""

import subprocess
import sys
from pathlib import Path

import pytest

import explora


def test_importing_explora_does_not_import_torch() -> None:
    code = "import sys, explora; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["configure", "evaluate", "generate", "load", "sweep", "train"])
def test_every_function_is_there_and_documented(name: str) -> None:
    assert getattr(explora, name).__doc__
    assert name in dir(explora)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        explora.nothing  # noqa: B018


def test_a_run_folder_may_be_named_by_text(tiny_base: Path, tiny_data: Path, tmp_path: Path) -> None:
    settings = {"model": tiny_base, "data": tiny_data / "sentiment", "method": "last-linear", "max_steps": 1}
    events = list(explora.train(explora.configure("sentiment", settings), str(tmp_path / "run")))
    assert events[-1].result.steps == 1
    assert (tmp_path / "run" / "run.json").is_file()
