"""Load of the machine by other programs during a measurement. This module does not load torch."""

from __future__ import annotations

import os
import time

import psutil


class OtherLoad:
    """CPU time used by other processes since this object was created."""

    def __init__(self) -> None:
        self.started, self.busy, self.own = time.monotonic(), _busy_seconds(), _own_seconds()

    def processors(self) -> float:
        """Return the mean number of processors that other processes kept busy."""
        seconds = max(time.monotonic() - self.started, 1e-9)
        others = (_busy_seconds() - self.busy) - (_own_seconds() - self.own)
        return max(0.0, others) / seconds


def _busy_seconds() -> float:
    """Return the seconds of work of all processors since the system started, without waiting for disks."""
    times = psutil.cpu_times()
    work = ("user", "nice", "system", "irq", "softirq", "steal")
    return float(sum(getattr(times, name, 0.0) for name in work))


def _own_seconds() -> float:
    return sum(os.times()[:4])
