"""Kill a process with SIGKILL at any change that it makes to files. It is a forked child, which costs little.

Python announces such changes to audit hooks before it makes them. A point is one of these, or an event of the
training loop. Everything between two points leaves the same files behind, except for half a file: that is
made by cutting the file which is about to be renamed, or by half a line before a line is appended.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from explora.core import files
from explora.core.runs import ownership
from explora.core.runs.running import Running

RENAMES = {"replace", "rename", "renames", "move"}
REMOVALS = {"unlink", "remove", "rmdir", "rmtree", "truncate"}
FOLDERS = {"mkdir", "makedirs", "mkdtemp"}
WRITES = {"open", "touch", "chmod", "write_bytes", "write_text", "save_file", "mkstemp", "fsync"}
COPIES = {"copy", "copy2", "copyfile", "copytree", "link", "symlink", "hardlink_to", "symlink_to"}
CALLS = RENAMES | REMOVALS | FOLDERS | WRITES | COPIES
CHANGES = {
    f"os.{name}" for name in ("rename", "remove", "rmdir", "mkdir", "link", "symlink", "chmod", "truncate")
}
WATCHED = {module.__file__: module.__name__.rpartition(".")[2] for module in (files, ownership)}
LOOP = "loop"


@dataclass(frozen=True)
class Point:
    """A moment at which a process may die: the function that is about to change files, and how."""

    function: str
    change: str


def calls_in(source: str) -> Counter[tuple[str, str]]:
    """Count the calls in a module that change files, by the function that they stand in."""
    found: Counter[tuple[str, str]] = Counter()
    for function in ast.parse(source).body:
        if not isinstance(function, ast.FunctionDef):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                if name in CALLS and not (name == "replace" and len(node.args) != 1):  # text.replace(a, b)
                    found[function.name, name] += 1
    return found


def points_of(work: Callable[[], None], notes: Path) -> list[Point]:
    """Do the work in a child, and return its points in order. `notes` is a file outside of that work."""
    points: list[Point] = []

    def listed() -> None:
        with watching(lambda point, _: points.append(point)):
            work()
        notes.write_text(json.dumps([vars(point) for point in points]), encoding="utf-8")

    assert in_child(listed) == 0
    return [Point(**each) for each in json.loads(notes.read_text(encoding="utf-8"))]


def kill_at(number: int, work: Callable[[], None], *, torn: bool) -> bool:
    """Do the work in a child, which dies at its point `number`; return whether it lived so long.

    With `torn`, it leaves half of the file that it was about to finish.
    """
    left = number

    def count(point: Point, file: Path | None) -> None:
        nonlocal left
        if left == 0:
            if torn and file is not None:
                tear(point, file)
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    def watched() -> None:
        with watching(count):
            work()

    status = in_child(watched)
    assert status in (0, -signal.SIGKILL)
    return status != 0


def tear(point: Point, file: Path) -> None:
    """Leave half of a file that is about to be renamed, or half a line where one is to be appended."""
    if point.change == "append":
        with file.open("ab") as out:
            out.write(b'{"step": 3, "lo')
    elif file.is_file():
        os.truncate(file, file.stat().st_size // 2)


def in_child(work: Callable[[], None]) -> int:
    """Do the work in a forked child without output. Returns its exit status, -9 for a SIGKILL."""
    if (child := os.fork()) == 0:
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@contextlib.contextmanager
def watching(meet: Callable[[Point, Path | None], None]) -> Iterator[None]:
    """Call `meet` at each point, with the file where one is finished there. The hook stays: for a child."""
    inside = False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal inside
        change = change_of(event, arguments)
        if inside or not change or not (function := function_in_charge()):
            return
        inside = True
        file = Path(os.fsdecode(arguments[0])) if change in ("os.rename", "append") else None
        meet(Point(function, change), file)
        inside = False

    events = Running.events

    def noted(running: Running) -> Iterator[Any]:
        for event in events(running):
            meet(Point(LOOP, type(event).__name__), None)
            yield event

    sys.addaudithook(hook)
    Running.events = noted  # type: ignore[method-assign]
    yield


def change_of(event: str, arguments: tuple[Any, ...]) -> str:
    """Return how an audit event changes files: "append", "write", or its own name; empty if it does not."""
    if event != "open":
        return event if event in CHANGES else ""
    mode, flags = arguments[1] or "", arguments[2]
    if "a" in mode or flags & os.O_APPEND:
        return "append"
    return "write" if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) else ""


def function_in_charge() -> str:
    """Return the innermost function of the modules that change files, empty if none of them is at work."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename in WATCHED:
            return f"{WATCHED[frame.f_code.co_filename]}.{frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return ""
