"""Paths of a run become absolute; names of bases and of data sets stay names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from explora.core.config.precedence import resolve
from explora.core.runs.paths import with_absolute_paths


@pytest.mark.parametrize("name", ["model", "tokenizer", "data", "dev"])
def test_what_exists_becomes_absolute(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").mkdir()
    for given, expected in (("here", str(tmp_path / "here")), ("nowhere", "nowhere")):
        settings: dict[str, Any] = {name: given}
        run = with_absolute_paths(resolve("text", settings)[0])
        found = {"model": run.model, "tokenizer": run.tokenizer, "data": run.data.data, "dev": run.data.dev}
        assert found[name] == expected
        assert run == resolve("text", {name: expected})[0]


@pytest.mark.parametrize(
    ("name", "given"), [("model", "gpt2"), ("model", "embedded"), ("model", "random:gpt2"), ("data", "sst")]
)
def test_a_name_stays_a_name_beside_a_folder_of_that_name(
    name: str, given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(given).mkdir()
    run = resolve("sentiment", {name: given})[0]
    assert with_absolute_paths(run) == run
    other = with_absolute_paths(resolve("sentiment", {name: f"./{given}"})[0])
    assert str(tmp_path / given) in (other.model, other.data.data)
