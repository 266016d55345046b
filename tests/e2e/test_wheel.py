"""The wheel works by itself: built, installed in a clean environment, tried from another folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "explora"


def run(*command: str | Path, cwd: Path) -> str:
    """Return the stdout of a command that must succeed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, cwd=ROOT)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts folder of an environment that has the wheel, and the dependencies of this one."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=False, symlinks=True)
    scheme = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", "venv", vars=scheme))
    (site / "outer.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    scripts = Path(sysconfig.get_path("scripts", "venv", vars=scheme))
    pip = [sys.executable, "-m", "pip", "--python", scripts / "python", "install", "--no-deps", "--no-index"]
    run(*pip, wheel, cwd=folder)
    return scripts


def test_the_wheel_holds_every_file_of_the_package(wheel):
    ours = {path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*") if path.is_file()}
    ours = {name for name in ours if "__pycache__" not in name}
    assert any(name.startswith("explora/assets/") for name in ours)
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("explora/")}
    assert held == ours


def test_the_installed_package_is_the_one_that_runs(installed, tmp_path):
    where = run(installed / "python", "-c", "import explora; print(explora.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parent)


def test_the_installed_command_works_from_another_folder(installed, tmp_path):
    from explora import __version__

    assert run(installed / "explora", "--version", cwd=tmp_path) == f"explora {__version__}\n"
    assert json.loads(run(installed / "explora", "params", "--json", cwd=tmp_path))["trainable"] > 0


def test_the_embedded_base_and_samples_work_from_the_wheel(installed, tmp_path):
    command = ["generate", "sonnet", "--prompt", "Shall I compare", "--max-new-tokens", "4", "--json"]
    assert json.loads(run(installed / "explora", *command, cwd=tmp_path))["tokens"] > 0
    command = ["train", "paraphrase", "--max-steps", "1", "--dry-run", "--json"]
    json.loads(run(installed / "explora", *command, cwd=tmp_path))
