"""Fit the steps of a training phase and its learning rate to the seconds that the phase has."""

from __future__ import annotations

from dataclasses import dataclass

UNTIMED = 10  # first steps, in which kernels are compiled
TIMED = 10  # further steps before the first estimate


@dataclass
class Schedule:
    """Linear warm-up, a constant learning rate, then a linear decay to zero (Hu et al. 2024, section 4).

    seconds: of the phase. warmup: steps. decay: the share of the steps that decay; 0 keeps the rate constant.
    The number of steps is estimated from the time of the steps so far, and before there are enough from
    `seconds_per_step`, if an earlier phase has measured it. The number is fixed when the decay begins, or
    from the start by `of_steps`: then the same steps follow on any clock.
    """

    seconds: float
    warmup: int = 0
    decay: float = 0.0
    total: int | None = None
    decays_from: int | None = None
    seconds_per_step: float | None = None
    timed_from: float = 0.0

    @classmethod
    def of_steps(cls, steps: int, warmup: int = 0, decay: float = 0.0) -> Schedule:
        """Return a schedule of a fixed number of steps, whatever the clock shows."""
        return cls(float("inf"), warmup, decay, steps, round((1 - decay) * steps))

    def observe(self, step: int, seconds: float) -> None:
        """Take note that `step` steps of the phase were done after `seconds` seconds of it."""
        if self.decays_from is not None:
            return
        if step <= UNTIMED:
            self.timed_from = seconds
        if step >= UNTIMED + TIMED:
            self.seconds_per_step = (seconds - self.timed_from) / (step - UNTIMED)
        if self.seconds_per_step is None:
            return
        self.total = step + max(0, int((self.seconds - seconds) / self.seconds_per_step))
        if step >= (1 - self.decay) * self.total:
            self.decays_from = step

    def is_done(self, step: int) -> bool:
        """Tell whether `step` steps are all of the phase."""
        return self.decays_from is not None and self.total is not None and step >= self.total

    def factor(self, step: int) -> float:
        """Return the factor of the learning rate at a step, counted from 0."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.decays_from is None or self.total is None or step < self.decays_from or not self.decay:
            return 1.0
        return (self.total - step) / (self.total - self.decays_from)
