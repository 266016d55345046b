"""What a bench compares, how many cells that is, and about how long they take. Light: no torch."""

from __future__ import annotations

from dataclasses import dataclass

from explora.core.bench.measurements import BenchSetting, Contender
from explora.errors import UsageError

TIMED_SECONDS = 60.0  # of training, over all cells, where no number of steps is given
LEAST_SECONDS = 4.0  # of training, of a cell, however many there are
START_SECONDS = 4.0  # to start Python and torch and to load the base
SECONDS_A_REPEAT = 50.0  # after so many times this, or so many
SECONDS_A_CELL = 10.0  # times that, what is left of the repeats is left out
MOST_CELLS = 1000
LEARNING_SECONDS = 180.0  # of training, over all contenders


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to compare, how often, and for how many timed steps, None for as time allows.

    `peer`: also the LoRA contender of the middle rank of each setting on another stack. `learning`: also what
    our contenders learn; in `lesson_steps` steps, None for as time allows.
    """

    contenders: tuple[Contender, ...]
    repeats: int
    steps: int | None
    peer: bool = False
    learning: bool = False
    lesson_steps: int | None = None

    @property
    def settings(self) -> list[BenchSetting]:
        """The settings, each once."""
        return list(dict.fromkeys(each.setting for each in self.contenders))

    @property
    def cells(self) -> int:
        """How many processes measure."""
        return self.repeats * (len(self.contenders) + self.peer * len(self.settings))

    @property
    def cell_seconds(self) -> float:
        """How long a cell trains where no number of steps is given."""
        return max(LEAST_SECONDS, TIMED_SECONDS / self.cells)

    @property
    def most_seconds(self) -> float:
        """When nobody who asked for nothing special should be kept waiting any longer."""
        return max(SECONDS_A_REPEAT * self.repeats, SECONDS_A_CELL * self.cells)

    @property
    def expected_seconds(self) -> float | None:
        """About how long all takes, None where that hangs on a number of steps."""
        if self.steps is not None or (self.learning and self.lesson_steps is not None):
            return None
        learning = LEARNING_SECONDS + START_SECONDS * len(self.contenders) if self.learning else 0.0
        return self.cells * (self.cell_seconds + START_SECONDS) + learning

    def check(self) -> None:
        """Raise UsageError for more cells than anybody waits for, or where nothing can be learned."""
        if self.learning and any(each.length is not None for each in self.contenders):
            raise UsageError(
                "rows of a given length are for timing: nothing is learned from them",
                "--quality or --lengths, not both",
            )
        if self.learning and self.contenders[0].run.model.startswith("random:"):
            raise UsageError(
                "random weights are for timing: what they learn says nothing",
                "leave --quality or --model out",
            )
        if self.cells <= MOST_CELLS:
            return
        hours = self.cells * (START_SECONDS + (0.0 if self.steps else LEAST_SECONDS)) / 3600
        settings, contenders = len(self.settings), len(self.contenders)
        raise UsageError(
            f"{settings} settings, {contenders} contenders and {self.repeats} repeats are {self.cells:,} "
            f"cells, {hours:.1f} hours at the least; {MOST_CELLS:,} are the most",
            "fewer values, or --repeats 1",
        )
