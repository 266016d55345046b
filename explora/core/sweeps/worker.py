"""The process that trains one cell: `python -m explora.core.sweeps.worker PARENT PROCESSORS FOLDER`.

It reads an order as JSON from stdin (see `Order.to_json`), and writes its events to the original stdout, one
JSON object per line. It computes on the given processors only: `0,4`, or all for an empty text.

Each cell has a process of its own, so that its peak memory equals that of the same run alone. In a process
that has trained other cells, their caches and fragmentation would count, too (docs/sweeps.md).
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
TOLD_EVERY = 0.1  # seconds between reports of steps: a step may take less time than its report


def main(parent: int, processors: tuple[int, ...], folder: Path) -> None:
    """Train the cell. After a signal, exits with the same code as `train`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # sent by a terminal; the parent process sends SIGTERM
    _end_with(parent)
    machine = describe_machine()  # the whole machine, before this process is bound to some processors
    bind_to(processors)  # before torch starts threads, which inherit it
    from explora.core.sweeps.training import train_cell

    signal.signal(signal.SIGTERM, _interrupt)  # before, while torch was loaded, SIGTERM ended the process
    try:
        order = json.load(sys.stdin)
        run = TrainRun.from_json(order["run"])
        train_cell(run, folder, Channel().tell, with_samples=order["with_samples"], machine=machine)
    except Interrupted as interrupt:
        sys.exit(interrupt.exit_code)


class Channel:
    """Channel to the parent process. All other output to stdout goes to stderr from now on."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._told_at = 0.0

    def tell(self, event: str, **facts: Any) -> None:
        """Write an event. Of steps in quick succession, only some are written.

        Raises Interrupted if the parent process has ended.
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
    """Make Linux send SIGTERM to this process as soon as its parent has ended, in whatever way."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    main(
        int(sys.argv[1]), tuple(int(number) for number in sys.argv[2].split(",") if number), Path(sys.argv[3])
    )
