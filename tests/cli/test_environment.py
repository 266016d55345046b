"""What torch finds in the environment: a rule for each command, and the user's own setting stands."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from explora.commands._environment import prepare_answers, prepare_training
from explora.core.machine.malloc import TUNABLES as ALLOCATING

CACHES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "64"}
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", *CACHES)


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that it is restored whatever happens
        monkeypatch.delenv(name)


def set_now() -> dict[str, str]:
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}


def test_training_spins_briefly_and_answers_do_not_spin() -> None:
    prepare_training()
    assert set_now() == {"GOMP_SPINCOUNT": "1000", **CACHES}
    del os.environ["GOMP_SPINCOUNT"]
    prepare_answers()
    assert set_now() == {"OMP_WAIT_POLICY": "PASSIVE", **CACHES}


@pytest.mark.parametrize("wait", [prepare_training, prepare_answers])
@pytest.mark.parametrize(
    ("name", "value"),
    [("OMP_WAIT_POLICY", "ACTIVE"), ("GOMP_SPINCOUNT", "7"), ("LRU_CACHE_CAPACITY", "9")],
)
def test_what_the_user_set_stands(wait: object, name: str, value: str) -> None:
    os.environ[name] = value
    assert callable(wait)
    wait()
    assert set_now()[name] == value
    assert ("GOMP_SPINCOUNT" in set_now()) + ("OMP_WAIT_POLICY" in set_now()) == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "paraphrase", "--data", "nowhere.csv"], "1000 None 64"),
        (["bench", "--data", "nowhere.csv"], "1000 None 64"),
        (["eval", "paraphrase", "--data", "nowhere.csv"], "None PASSIVE 64"),
        (["generate", "sonnet", "nowhere", "--prompt", "x"], "None PASSIVE 64"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_the_rule_is_set_before_torch_is_loaded(arguments: list[str], expected: str) -> None:
    """A finder that is asked for torch says what the environment is at that moment."""
    program = (
        "import os, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch':\n"
        "            names = 'GOMP_SPINCOUNT', 'OMP_WAIT_POLICY', 'LRU_CACHE_CAPACITY'\n"
        "            print(*(os.environ.get(name) for name in names))\n"
        "            os._exit(0)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from explora.cli import main\n"
        f"main({arguments!r})\n"
    )
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False
    )
    assert found.stdout.strip() == expected, found.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
@pytest.mark.parametrize(
    ("words", "given", "expected"),
    [
        (["train", "paraphrase", "--data", "nowhere.csv"], None, ALLOCATING["GLIBC_TUNABLES"]),
        (["train", "paraphrase", "--data", "nowhere.csv"], "a.b=c", "a.b=c"),
        (["eval", "paraphrase", "--data", "nowhere.csv"], None, "None"),
    ],
    ids=["train", "the user's", "eval"],
)
def test_train_starts_again_with_what_glibc_reads_at_the_start(
    words: list[str], given: str | None, expected: str
) -> None:
    program = (
        "import os, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch':\n"
        "            print(os.environ.get('GLIBC_TUNABLES'), sys.argv[1:])\n"
        "            sys.stdout.flush()\n"
        "            os._exit(0)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from explora.__main__ import entry\n"
        "entry()\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    environment |= {} if given is None else {"GLIBC_TUNABLES": given}
    found = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, env=environment, check=False
    )
    assert found.stdout.strip() == f"{expected} {words}", found.stderr
