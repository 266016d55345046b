"""Plan of a bench: what it compares, in how many cells, and for about how long. It does not load torch."""

from __future__ import annotations

from dataclasses import dataclass

from explora.core.bench.measurements import BenchSetting, Contender
from explora.errors import UsageError

TIMED_SECONDS = 60.0  # of training, over all cells, if no number of steps is given
LEAST_SECONDS = 4.0  # of training, per cell, for any number of cells
START_SECONDS = 4.0  # to start Python and torch and to load the base
SECONDS_A_REPEAT = 50.0  # the remaining repeats are left out after this time per repeat,
SECONDS_A_CELL = 10.0  # or after this time per cell, whichever is longer
MOST_CELLS = 1000
LEARNING_SECONDS = 180.0  # of training, over all contenders


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to compare, how often, and for how many timed steps; None for as many as time allows.

    `peer`: also train the LoRA contender of the middle rank of each setting on another stack. `learning`:
    also measure what explora's contenders learn, in `lesson_steps` steps, None for as many as time allows.
    """

    contenders: tuple[Contender, ...]
    repeats: int
    steps: int | None
    peer: bool = False
    learning: bool = False
    lesson_steps: int | None = None

    @property
    def settings(self) -> list[BenchSetting]:
        """The distinct settings of the contenders."""
        return list(dict.fromkeys(each.setting for each in self.contenders))

    @property
    def cells(self) -> int:
        """The number of measuring processes."""
        return self.repeats * (len(self.contenders) + self.peer * len(self.settings))

    @property
    def cell_seconds(self) -> float:
        """Seconds of training per cell if no number of steps is given."""
        return max(LEAST_SECONDS, TIMED_SECONDS / self.cells)

    @property
    def most_seconds(self) -> float:
        """Seconds after which the remaining repeats are left out, if no number of steps is given."""
        return max(SECONDS_A_REPEAT * self.repeats, SECONDS_A_CELL * self.cells)

    @property
    def expected_seconds(self) -> float | None:
        """Approximate duration in seconds; None if it depends on a number of steps."""
        if self.steps is not None or (self.learning and self.lesson_steps is not None):
            return None
        learning = LEARNING_SECONDS + START_SECONDS * len(self.contenders) if self.learning else 0.0
        return self.cells * (self.cell_seconds + START_SECONDS) + learning

    def check(self) -> None:
        """Raise UsageError for too many cells, and for a plan in which nothing can be learned."""
        if self.learning and any(each.length is not None for each in self.contenders):
            raise UsageError(
                "rows of a given length are for timing only: nothing can be learned from them",
                "use --quality or --lengths, not both",
            )
        if self.learning and self.contenders[0].run.model.startswith("random:"):
            raise UsageError(
                "random weights are for timing only: their scores have no meaning",
                "leave --quality or --model out",
            )
        if self.cells <= MOST_CELLS:
            return
        hours = self.cells * (START_SECONDS + (0.0 if self.steps else LEAST_SECONDS)) / 3600
        settings, contenders = len(self.settings), len(self.contenders)
        raise UsageError(
            f"{settings} settings, {contenders} contenders and {self.repeats} repeats are {self.cells:,} "
            f"cells, at least {hours:.1f} hours; the limit is {MOST_CELLS:,}",
            "give fewer values, or --repeats 1",
        )
