"""The cache: in its usual place, or in a temporary folder with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from explora.core.cache import cache_folder, why_temporary


def test_it_is_below_xdg_cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "new"))
    assert cache_folder() == tmp_path / "new" / "explora"
    assert why_temporary() == ""


def test_it_is_below_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "explora"


def no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_without_a_folder_to_write_to_it_is_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert why_temporary() == f"{tmp_path}/file/explora cannot be created: Not a directory"
    (cache_folder() / "tokens").mkdir(exist_ok=True)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert why_temporary() == "there is no home folder"
    assert (cache_folder() / "tokens").is_dir(), "one folder for the whole process"
