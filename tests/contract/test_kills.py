"""A run that is killed at any moment and resumed ends with the same bytes, and leaves nothing beside them.

The moments come from the module that changes files and from the events of the loop; see tests/killing.py. A
few of them are tried here. EXPLORA_KILLS=N tries up to N of each scenario.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from explora.cli import main
from explora.core import files
from explora.core.runs.folder import look_into
from explora.core.runs.record import read_record
from tests.killing import LOOP, Point, calls_in, kill_at, points_of

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

# Each call in files.py that changes files, and what Python announces when it runs: a kill is possible there.
# A call that is not listed fails the test below: list it, and see that a scenario of a run reaches it.
NOT_IN_A_RUN = ""
CALLS: dict[tuple[str, str, int], str] = {
    ("write_atomically", "write_bytes", 1): "write",
    ("write_once", "mkdir", 1): NOT_IN_A_RUN,
    ("write_once", "write_text", 1): NOT_IN_A_RUN,
    ("write_once", "link", 1): NOT_IN_A_RUN,
    ("write_once", "unlink", 1): NOT_IN_A_RUN,
    ("write_tensors", "touch", 1): "write",
    ("write_tensors", "save_file", 1): "write",  # by another language: half a file is made at the rename
    ("write_tensors", "chmod", 1): "os.chmod",
    ("writing_in_place", "mkdir", 1): "os.mkdir",
    ("writing_in_place", "unlink", 1): "os.remove",
    ("_open", "open", 1): "write",
    ("append_line", "open", 1): "append",
    ("replacing", "mkdir", 1): "os.mkdir",
    ("replacing", "replace", 1): "os.rename",
    ("replacing", "unlink", 1): NOT_IN_A_RUN,  # after an error, or where a signal interrupts
    ("replace_folder", "mkdir", 1): "os.mkdir",
    ("replace_folder", "replace", 2): "os.rename",
    ("settle_folder", "replace", 1): NOT_IN_A_RUN,  # after a kill
    ("remove_folder", "replace", 1): "os.rename",
    ("_delete", "rmtree", 1): NOT_IN_A_RUN,  # after a kill, or an error
    ("_delete", "unlink", 1): NOT_IN_A_RUN,
    ("replacing_files_in", "mkdir", 1): "os.mkdir",
    ("replacing_files_in", "replace", 2): "os.rename",
    ("_scratch_beside", "mkdtemp", 1): "os.mkdir",
    ("_scratch_beside", "rmtree", 1): "os.rmdir",
}
EVENTS = {"StepDone", "EvalStarted", "EvalDone", "Saved", "Finished", "Completed", "FeaturesDone"}


@dataclass(frozen=True)
class Scenario:
    """The options of a run. `before` are those of a finished run that is in the folder already, and `origin`
    those of the run that it starts from.
    """

    words: str
    before: str = ""
    origin: str = ""


SHORT = "--max-steps 4 --eval-every 2 --save-every 1"
TEXT = f"text --max-length 24 --batch-size 4 --dropout 0.1 --lr 0.01 {SHORT}"
SCRATCH = "--full --from-scratch layers=1,heads=2,width=16,context=32,vocabulary=280"
SCENARIOS = {
    "adapter": Scenario(f"{TEXT}"),
    "overwrite": Scenario(f"{TEXT} --overwrite", before="text --max-steps 1 --seed 2"),
    "model from scratch": Scenario(f"{TEXT} {SCRATCH}"),
    "more steps": Scenario("text --resume --max-steps 4", before=f"{TEXT} --max-steps 2"),
    "from a run": Scenario(f"{TEXT} --overwrite", before="text --max-steps 1", origin=f"{TEXT} --seed 3"),
    "feature cache": Scenario("sentiment --last-linear --epochs 2 --batch-size 8 --lr 0.01"),
}
KILLS = int(os.environ.get("EXPLORA_KILLS", "5"))  # of each scenario


class Stage:
    """A scenario in which runs are started, killed and resumed, each in a folder of its own."""

    def __init__(self, scenario: Scenario, root: Path, common: list[str]) -> None:
        self.scenario, self.root, self.common = scenario, root, common
        self.before = self.folder("before") if scenario.before else None
        self.origin = self.folder("origin") if scenario.origin else None
        if self.origin:
            self.command(scenario.origin, self.origin)
        if self.before:
            self.command(scenario.before, self.before)
        self.whole, listed = self.prepared("whole"), self.prepared("listed")
        self.start(self.whole)  # and what is cached is cached
        self.points = points_of(lambda: self.start(listed), root / "points.json")

    def folder(self, name: str) -> Path:
        return self.root / name / "run"

    def prepared(self, name: str) -> Path:
        """Return a folder that holds what it does before the scenario starts."""
        folder = self.folder(name)
        folder.parent.mkdir()
        if self.before:
            shutil.copytree(self.before, folder)
        return folder

    def command(self, words: str, folder: Path) -> None:
        task, *options = words.split()
        data = ["--data", str(Path(self.common[-1]) / task)]
        model = [] if "--from-scratch" in options else self.common[:2]
        chosen = [] if "--resume" in options else [*model, *data, "--amp", "off", "--threads", "1"]
        assert main(["train", task, *options, *chosen, "-q", "-o", str(folder)]) == 0

    def start(self, folder: Path) -> None:
        start = f" --from {self.origin}" if self.origin else ""
        self.command(self.scenario.words + start, folder)

    def resume(self, folder: Path) -> None:
        """Resume what the folder holds; before the record of the new run is there, start again."""
        found, old = look_into(folder), self.before and read_record(self.before)
        if found.record is None or (old and found.record.run == old.run):
            self.start(folder)
        else:
            self.command(f"{found.record.run.task} --resume", folder)


@pytest.fixture(scope="module")
def stage(
    tiny_base: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Stage]:
    """Make a stage for a scenario, once."""
    known: dict[str, Stage] = {}

    def of(name: str) -> Stage:
        if name not in known:
            common = ["--model", str(tiny_base), str(tiny_data)]
            known[name] = Stage(SCENARIOS[name], tmp_path_factory.mktemp("kills"), common)
        return known[name]

    return of


def content(folder: Path) -> dict[str, Any]:
    """Return what a run left: its files, and without times what the record and the metrics hold."""
    found: dict[str, Any] = {
        str(item.relative_to(folder.parent)): item.read_bytes() if item.is_file() else None
        for item in folder.parent.rglob("*")
    }
    record = json.loads(found.pop("run/run.json"))
    found["result"] = {name: record["result"][name] for name in ("scores", "best_step", "steps", "tokens")}
    lines = found.pop("run/metrics.jsonl").decode().splitlines()
    found["metrics"] = [dict(json.loads(line), tokens_per_second=0) for line in lines]
    return found | {"run/README.md": bool(found["run/README.md"])}


@pytest.mark.parametrize("number", range(KILLS))
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_killed_run_ends_with_the_same_bytes(name: str, number: int, stage: Callable[[str], Stage]) -> None:
    here = stage(name)
    if number >= len(here.points):
        pytest.skip("there are not so many moments")
    places = random.Random(0).sample(range(len(here.points)), min(KILLS, len(here.points)))
    folder = here.prepared(f"killed-{number}")
    assert kill_at(places[number], lambda: here.start(folder), torn=bool(number % 2))
    here.resume(folder)
    assert content(folder) == content(here.whole), here.points[places[number]]
    shutil.rmtree(folder.parent)


def test_the_moments_are_those_of_the_module_that_changes_files(stage: Callable[[str], Stage]) -> None:
    """A new call that changes files is noticed here, and so is one that no scenario reaches."""
    listed = {(function, call): count for function, call, count in CALLS}
    assert calls_in(Path(files.__file__).read_text(encoding="utf-8")) == Counter(listed)
    met = {point for name in SCENARIOS for point in stage(name).points}
    wanted = {Point(f"files.{name}", change) for (name, _, _), change in CALLS.items() if change}
    assert wanted - met == set()
    assert {point.change for point in met if point.function == LOOP} == EVENTS


@pytest.mark.parametrize(
    ("line", "call"),
    [
        ("partial.rename(file)", "rename"),
        ("partial.replace(file)", "replace"),
        ("os.fsync(out)", "fsync"),
        ("shutil.rmtree(folder)", "rmtree"),
    ],
)
def test_a_new_change_is_noticed(line: str, call: str) -> None:
    source = Path(files.__file__).read_text(encoding="utf-8")
    changed = source.replace(
        "    old = _set_aside(folder)\n", f"    old = _set_aside(folder)\n    {line}\n", 1
    )
    assert calls_in(changed) - calls_in(source) == Counter({("settle_folder", call): 1})


def test_a_state_that_is_not_written_first_is_noticed(
    stage: Callable[[str], Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planted bug: `latest` names the new state before it is whole."""
    from explora.core.training import checkpoint

    here = stage("adapter")
    folder = here.prepared("planted")
    write = checkpoint.write_tensors

    def too_late(file: Path, tensors: Any) -> None:
        files.write_atomically(file.parent.parent / "latest", file.parent.name)
        write(file, tensors)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_tensors", too_late)
        place = [point.function for point in here.points].index("files.write_tensors")
        assert kill_at(place + 2, lambda: here.start(folder), torn=False)
    with pytest.raises(AssertionError):
        here.resume(folder)
