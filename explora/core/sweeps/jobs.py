"""Train cells, several at the same time, each in a process of its own, and yield their events.

Importing this module does not load torch.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from explora.core.config.run_config import TrainRun
from explora.core.machine.malloc import TUNABLES

WORKER = "explora.core.sweeps.worker"
ENDS = ("finished", "failed", "stopped")
STOPPED = (-signal.SIGTERM, 128 + signal.SIGTERM)  # exit codes before and after Python handles the signal


@dataclass(frozen=True, kw_only=True)
class Order:
    """A cell to train: its name, its folder and its settings, including the number of threads.

    with_samples: record continuations of a text for a report.
    """

    name: str
    folder: Path
    run: TrainRun
    with_samples: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that the worker reads."""
        return {"run": self.run.to_json(), "with_samples": self.with_samples}


@dataclass(frozen=True, kw_only=True)
class Report:
    """An event of a cell, "started", "step", "score" or one of ENDS, and its data."""

    name: str
    event: str
    facts: Mapping[str, Any]


class Jobs:
    """Jobs that share a queue of orders: each trains one cell after another on its own processors."""

    def __init__(self, orders: Sequence[Order], processors: Sequence[tuple[int, ...]]) -> None:
        self.reports: SimpleQueue[Report | None] = SimpleQueue()
        self._orders = deque(orders)
        self._lock = threading.Lock()  # prevents the start of a worker while all are stopped
        self._jobs = [_Job(self, each) for each in processors]

    def events(self) -> Iterator[Report]:
        """Train everything, and yield the reports.

        If the iteration is interrupted, the caller should call `stop` and use the reports that it yields.
        """
        for job in self._jobs:
            job.start()
        busy = len(self._jobs)
        while busy:
            report = self.reports.get()
            if report is None:
                busy -= 1
            else:
                yield report

    def stop(self) -> Iterator[Report]:
        """Let every worker finish its step, save and end; yield the outcomes of the cells in progress."""
        self._signal(signal.SIGTERM)
        for job in self._jobs:
            if job.is_alive():
                job.join()
        while not self.reports.empty():
            if (report := self.reports.get()) is not None:
                yield report

    def kill(self) -> None:
        """Kill every worker immediately. The steps since its last saved state are lost."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with self._lock:
            self._orders.clear()
            for job in self._jobs:
                if job.process is not None:
                    job.process.send_signal(number)

    def next_order(self, job: _Job) -> Order | None:
        """Return the next order of a job, with its process started; None if no order is left."""
        with self._lock:
            if not self._orders:
                return None
            order = self._orders.popleft()
            job.start_process(order.folder)
            return order


class _Job(threading.Thread):
    """A thread that starts a process for each order, and forwards its messages."""

    def __init__(self, jobs: Jobs, processors: tuple[int, ...]) -> None:
        super().__init__(daemon=True)
        self.jobs = jobs
        self.processors = ",".join(map(str, processors))
        self.process: subprocess.Popen[str] | None = None

    def run(self) -> None:
        try:
            with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as self.errors:
                while (order := self.jobs.next_order(self)) is not None:
                    self._report(order, "started")
                    for message in self._train(order):
                        self._report(order, **message)
        finally:
            self.jobs.reports.put(None)

    def start_process(self, folder: Path) -> None:
        command = [sys.executable, "-P", "-m", WORKER, str(os.getpid()), self.processors, str(folder)]
        self.errors.seek(0)
        self.errors.truncate()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            encoding="utf-8",
            process_group=0,  # Ctrl-C in a terminal reaches only this process, which then stops the workers
            env={**TUNABLES, **os.environ},
        )

    def _report(self, order: Order, event: str, **facts: Any) -> None:
        self.jobs.reports.put(Report(name=order.name, event=event, facts=facts))

    def _train(self, order: Order) -> Iterator[dict[str, Any]]:
        """Yield the messages of the process; the last event is one of ENDS."""
        assert self.process and self.process.stdin and self.process.stdout
        with suppress(BrokenPipeError):  # the process has died, so there are no messages
            self.process.stdin.write(json.dumps(order.to_json()))
            self.process.stdin.close()
        has_ended = False
        for message in map(json.loads, self.process.stdout):
            has_ended = message["event"] in ENDS
            yield message
        self.process.stdout.close()
        code = self.process.wait()
        if not has_ended:
            self.errors.seek(0)
            yield {"event": "stopped"} if code in STOPPED else _death(code, self.errors.read().strip())


def _death(code: int, errors: str) -> dict[str, Any]:
    """Return the message for a process that ended before its cell did."""
    if code == -signal.SIGKILL:
        reason = "the process was killed, usually because the machine ran out of memory"
    elif code < 0:
        reason = f"the process was ended by {signal.Signals(-code).name}"
    else:
        reason = errors.splitlines()[-1] if errors else f"the process ended with exit code {code}"
    return {"event": "failed", "message": reason, "details": errors}
