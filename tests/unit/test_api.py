"""The Python API is lazy and complete."""

import subprocess
import sys

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
