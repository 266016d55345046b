"""Ctrl-C and SIGTERM during a training: the step in progress ends first, so that its state can be saved."""

from __future__ import annotations

import signal
from types import FrameType

from explora.errors import Interrupted


class Signals:
    """Turn Ctrl-C and SIGTERM into Interrupted: at the next `check`, or at once while `at_once` is set.

    A second signal interrupts at once, unless `once`.
    """

    def __init__(self, *, once: bool = False) -> None:
        self.once = once
        self.at_once = False
        self.noted: int | None = None

    def __enter__(self) -> Signals:
        numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if callable(signal.getsignal(n))]
        self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        is_second, self.noted = self.noted is not None, number
        if is_second and self.once:
            return
        if self.at_once or is_second:
            raise Interrupted(number)

    def check(self) -> None:
        """Raise Interrupted if a signal has come."""
        if self.noted is not None:
            raise Interrupted(self.noted)
