"""State of a bench in progress: contenders, and groups of contenders that are compared."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from explora.core.bench.lessons import Learned
from explora.core.bench.measurements import Contender, Measurement
from explora.core.bench.plan import Plan
from explora.core.bench.rows import Outcome
from explora.core.config.registry import DEFAULT_METHOD, TASKS
from explora.core.config.run_config import settings_of
from explora.errors import UsageError

PEERS = ("transformers", "peft")


@dataclass(kw_only=True)
class Standing:
    """A contender and its results so far."""

    contender: Contender
    found: list[Measurement] = field(default_factory=list)
    error: str = ""
    learned: Learned | None = None

    @property
    def step_seconds(self) -> float:
        """Seconds per timed step, the median of the cells."""
        return median(each.seconds / each.steps for each in self.found)


@dataclass(kw_only=True)
class Group:
    """The contenders of one setting, and what they share.

    `steps` is the number of timed steps of each cell; `reference` is the input of the peer, empty until
    known.
    """

    own: list[Standing]
    peer: Standing | None
    steps: int | None
    reference: dict[str, Any] = field(default_factory=dict)

    @property
    def standings(self) -> list[Standing]:
        """All standings; the peer comes last, because it needs the number of steps."""
        return [*self.own, *([self.peer] if self.peer else [])]

    @property
    def timed(self) -> list[Standing]:
        """Explora's contenders that did not fail, the fastest first."""
        return sorted(
            (each for each in self.own if each.found and not each.error), key=lambda each: each.step_seconds
        )

    @property
    def longest_step(self) -> float:
        """Seconds per step of explora's slowest contender, 0 if none was timed."""
        return self.timed[-1].step_seconds if self.timed else 0.0

    def outcomes(self) -> list[Outcome]:
        """Return the outcome of each contender."""
        return [
            Outcome(
                contender=each.contender,
                found=tuple(each.found),
                error=each.error or None,
                reference_loss=self.reference.get("loss") if each is self.peer else None,
                learned=each.learned,
            )
            for each in self.standings
        ]


def groups_of(plan: Plan) -> list[Group]:
    """Return the contenders by setting. Raises UsageError if a peer cannot be measured."""
    members = [[each for each in plan.contenders if each.setting == setting] for setting in plan.settings]
    return [
        Group(
            own=[Standing(contender=each) for each in group],
            peer=Standing(contender=_peer_of(group)) if plan.peer else None,
            steps=plan.steps,
        )
        for group in members
    ]


def _peer_of(group: Sequence[Contender]) -> Contender:
    """Return the contender of the middle rank that PEFT can train, too, with another stack."""
    shared = [each for each in group if each.run.method.peer_config() is not None]
    if not shared:
        raise UsageError(
            "--peer compares with transformers + peft, which do not have any of these methods",
            f"add {DEFAULT_METHOD} to --methods",
        )
    default = [each for each in shared if each.run.method.name == DEFAULT_METHOD] or shared
    ranked = sorted(default, key=lambda each: settings_of(each.run).get("rank", 0))
    middle = ranked[len(ranked) // 2]
    if TASKS[middle.run.task].own_head:
        raise UsageError(
            f"--peer cannot compare {middle.run.task}: its new head cannot start from the same weights"
        )
    if middle.run.runtime.amp == "fp16":
        raise UsageError("--peer runs in fp32 or bf16", "--amp off or --amp bf16")
    if missing := [name for name in PEERS if importlib.util.find_spec(name) is None]:
        raise UsageError(f"--peer needs {' and '.join(missing)}", "pip install 'explora[peer]'")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in PEERS]
    return Contender(run=middle.run, length=middle.length, stack=" + ".join(versions))
