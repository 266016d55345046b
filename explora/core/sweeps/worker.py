"""The process that trains cells: `python -m explora.core.sweeps.worker PARENT PROCESSORS`.

It reads orders, one JSON object a line, on stdin, and writes what happens, one JSON object a line, to what
was its stdout when it started. It computes on the given processors only: `0,4`, or all for an empty text.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import IO, Any, NoReturn

from explora.core.config.run_config import TrainRun
from explora.core.sweeps.processors import bind_to
from explora.errors import Interrupted

PR_SET_PDEATHSIG = 1  # linux/prctl.h
TOLD_EVERY = 0.1  # seconds: a step may take less time than to tell it


def main(parent: int, processors: tuple[int, ...]) -> None:
    """Train what is ordered until stdin ends or a signal comes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal; our parent sends SIGTERM
    signal.signal(signal.SIGTERM, _interrupt)
    _end_with(parent)
    bind_to(processors)
    try:
        _serve(sys.stdin, Channel())
    except Interrupted as interrupt:
        sys.exit(interrupt.exit_code)


def _serve(orders: IO[str], channel: Channel) -> None:
    """Train cell after cell, until one leaves the process in a state that the next must not inherit."""
    from explora.core.sweeps.training import SharedData, train_cell

    data = SharedData()
    for line in orders:
        order = json.loads(line)
        run = TrainRun.from_json(order["config"])
        if not train_cell(run, Path(order["folder"]), data, channel.tell):
            return
        channel.tell("ready")


class Channel:
    """The way to the parent. What anything else writes to stdout goes to stderr from here on."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._told_at = 0.0

    def tell(self, event: str, **facts: Any) -> None:
        """Write an event; of steps that follow each other quickly, not all are written."""
        now = time.monotonic()
        if event == "step" and now - self._told_at < TOLD_EVERY:
            return
        self._told_at = now
        self._out.write(json.dumps({"event": event, **facts}) + "\n")
        self._out.flush()


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise Interrupted(number)


def _end_with(parent: int) -> None:
    """Let Linux send SIGTERM to this process as soon as its parent has ended, in whatever way."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(f"the process {parent} that ordered has ended")


if __name__ == "__main__":
    main(int(sys.argv[1]), tuple(int(number) for number in sys.argv[2].split(",") if number))
