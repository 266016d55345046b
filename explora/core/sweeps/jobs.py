"""Train the cells of a sweep in worker processes, several at once, and yield what happens. Light."""

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


@dataclass(frozen=True, kw_only=True)
class Order:
    """A cell to train: its name, its folder and its settings, the number of threads included."""

    name: str
    folder: Path
    run: TrainRun


@dataclass(frozen=True, kw_only=True)
class Report:
    """What happened to a cell: the event, "started", "step", "score" or one of ENDS, and its facts."""

    name: str
    event: str
    facts: Mapping[str, Any]


class Jobs:
    """Worker processes, one for each set of processors, that share a queue of orders."""

    def __init__(self, orders: Sequence[Order], processors: Sequence[tuple[int, ...]]) -> None:
        self.reports: SimpleQueue[Report | None] = SimpleQueue()
        self._orders = deque(orders)
        self._lock = threading.Lock()  # no worker starts while all are stopped
        self._jobs = [_Job(self, each) for each in processors]

    def events(self) -> Iterator[Report]:
        """Train everything. Whatever interrupts this should call `stop`, and use what it yields."""
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
        """Let every worker finish its step, save and end; yield what became of the cells in progress."""
        self._signal(signal.SIGTERM)
        for job in self._jobs:
            if job.is_alive():
                job.join()
        while not self.reports.empty():
            if (report := self.reports.get()) is not None:
                yield report

    def kill(self) -> None:
        """End every worker at once. The steps since the last saved state are lost."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with self._lock:
            self._orders.clear()
            for job in self._jobs:
                if job.worker is not None:
                    job.worker.process.send_signal(number)

    def next_order(self, job: _Job) -> Order | None:
        """Return what a job trains next, with a worker running for it; None if nothing is left."""
        with self._lock:
            if not self._orders:
                return None
            job.provide_worker()
            return self._orders.popleft()


class _Job(threading.Thread):
    """Give orders to one worker process after the other: a new one where the last one has ended."""

    def __init__(self, jobs: Jobs, processors: tuple[int, ...]) -> None:
        super().__init__(daemon=True)
        self.all, self.processors = jobs, processors
        self.worker: _Worker | None = None

    def run(self) -> None:
        try:
            while (order := self.all.next_order(self)) is not None:
                self._train(order)
        finally:
            if self.worker is not None:
                self.worker.close()
            self.all.reports.put(None)

    def provide_worker(self) -> None:
        if self.worker is not None and self.worker.has_ended:
            self.worker.close()
            self.worker = None
        self.worker = self.worker or _Worker(self.processors)

    def _train(self, order: Order) -> None:
        assert self.worker is not None
        for message in self.worker.train(order):
            facts = {name: value for name, value in message.items() if name != "event"}
            self.all.reports.put(Report(name=order.name, event=message["event"], facts=facts))


class _Worker:
    """A worker process and the way to it. Its stderr is kept in a file, for the case that it dies."""

    def __init__(self, processors: tuple[int, ...]) -> None:
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        command = [sys.executable, "-P", "-m", WORKER, str(os.getpid()), ",".join(map(str, processors))]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            encoding="utf-8",
            process_group=0,  # Ctrl-C in a terminal reaches us alone, and we stop the workers
            env={**TUNABLES, **os.environ},
        )
        self.has_ended = False

    def train(self, order: Order) -> Iterator[dict[str, Any]]:
        """Give an order and yield the messages about it; the last event is one of ENDS."""
        assert self.process.stdin and self.process.stdout
        yield {"event": "started"}
        with suppress(BrokenPipeError):  # it has died: the loop below finds no message
            self.process.stdin.write(
                json.dumps({"folder": str(order.folder), "config": order.run.to_json()}) + "\n"
            )
            self.process.stdin.flush()
        is_open = True
        for message in map(json.loads, self.process.stdout):
            if message["event"] == "ready":
                return
            is_open = is_open and message["event"] not in ENDS
            yield message
        self.has_ended = True
        if is_open:
            yield self._death()

    def _death(self) -> dict[str, Any]:
        """Say why the process ended in the middle of a cell."""
        code = self.process.wait()
        self.errors.seek(0)
        details = self.errors.read().strip()
        if code in (-signal.SIGTERM, 128 + signal.SIGTERM):
            return {"event": "stopped"}
        if code == -signal.SIGKILL:
            reason = "the process was killed: usually because the memory ran out, see dmesg"
        elif code < 0:
            reason = f"the process ended by {signal.Signals(-code).name}"
        else:
            reason = details.splitlines()[-1] if details else f"the process ended with exit code {code}"
        return {"event": "failed", "message": reason, "details": details}

    def close(self) -> None:
        """Let the process end, and wait for it."""
        assert self.process.stdin and self.process.stdout
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()
