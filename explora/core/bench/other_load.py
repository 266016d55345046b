"""How busy everybody else keeps the machine while we measure. Light: no torch."""

from __future__ import annotations

import os
import time

import psutil


class OtherLoad:
    """Counts from its making on what the processors did that neither we nor our ended children asked for."""

    def __init__(self) -> None:
        self.started, self.busy, self.own = time.monotonic(), _busy_seconds(), _own_seconds()

    def processors(self) -> float:
        """Return how many processors others kept busy, on average."""
        seconds = max(time.monotonic() - self.started, 1e-9)
        others = (_busy_seconds() - self.busy) - (_own_seconds() - self.own)
        return max(0.0, others) / seconds


def _busy_seconds() -> float:
    """Seconds of work of all processors since the system started; waiting for a disk is none."""
    times = psutil.cpu_times()
    work = ("user", "nice", "system", "irq", "softirq", "steal")
    return float(sum(getattr(times, name, 0.0) for name in work))


def _own_seconds() -> float:
    return sum(os.times()[:4])
