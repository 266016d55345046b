"""The process that trains one cell: `python -m explora.core.sweeps.worker PARENT PROCESSORS FOLDER`.

It reads an order as JSON from stdin (see `Order.to_json`), and writes what happens, one JSON object a line,
to what was its stdout when it started. It computes on the given processors only: `0,4`, or all for an empty
text.

Each cell has a process of its own, so that its peak memory is that of the same run alone. In a process that
has trained other cells, the caches and the fragmentation that they leave behind would count too
(docs/sweeps.md).
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
from typing import Any, NoReturn

from explora.core.config.run_config import TrainRun
from explora.core.machine.facts import describe_machine
from explora.core.sweeps.processors import bind_to
from explora.errors import Interrupted

PR_SET_PDEATHSIG = 1  # linux/prctl.h
TOLD_EVERY = 0.1  # seconds: a step may take less time than to tell it


def main(parent: int, processors: tuple[int, ...], folder: Path) -> None:
    """Train the cell. Exits as `train` does after a signal."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal; our parent sends SIGTERM
    _end_with(parent)
    machine = describe_machine()  # all of it, not only the processors of this job
    bind_to(processors)  # before torch starts threads, which inherit it
    from explora.core.sweeps.training import train_cell

    signal.signal(signal.SIGTERM, _interrupt)  # while torch was loaded, the signal simply ended the process
    try:
        order = json.load(sys.stdin)
        run = TrainRun.from_json(order["run"])
        train_cell(run, folder, Channel().tell, with_samples=order["with_samples"], machine=machine)
    except Interrupted as interrupt:
        sys.exit(interrupt.exit_code)


class Channel:
    """The way to the parent. What anything else writes to stdout goes to stderr from here on."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._told_at = 0.0

    def tell(self, event: str, **facts: Any) -> None:
        """Write an event; of steps that follow each other quickly, not all are written.

        Raises Interrupted if the parent has gone.
        """
        now = time.monotonic()
        if event == "step" and now - self._told_at < TOLD_EVERY:
            return
        self._told_at = now
        try:
            self._out.write(json.dumps({"event": event, **facts}) + "\n")
            self._out.flush()
        except BrokenPipeError:
            raise Interrupted(signal.SIGTERM) from None


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise Interrupted(number)


def _end_with(parent: int) -> None:
    """Let Linux send SIGTERM to this process as soon as its parent has ended, in whatever way."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    main(
        int(sys.argv[1]), tuple(int(number) for number in sys.argv[2].split(",") if number), Path(sys.argv[3])
    )
