"""A check of the program, and its finding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

S = TypeVar("S")
Measure = Callable[[S], float | None]


@dataclass(frozen=True, kw_only=True)
class Check(Generic[S]):
    """One claim about the program, and a function that measures the deviation from it.

    name: one word, for tables; claim: the claim as a sentence; tolerance: the largest figure that passes;
    reason: why the tolerance is not smaller; meaning: the effect on results if the claim is false; remedy:
    what to do until the fault is repaired; measure: returns the figure, 0 at best, or None if the claim does
    not apply to the subject.
    """

    name: str
    claim: str
    tolerance: float
    reason: str
    meaning: str
    remedy: str
    measure: Measure[S]

    def to_json(self) -> dict[str, Any]:
        """Return all fields except the function."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name != "measure"}


def check(
    claim: str, *, name: str, tolerance: float, reason: str, meaning: str, remedy: str
) -> Callable[[Measure[S]], Check[S]]:
    """Return a decorator that converts the measuring function to a Check."""

    def decorate(measure: Measure[S]) -> Check[S]:
        return Check(
            name=name,
            claim=claim,
            tolerance=tolerance,
            reason=reason,
            meaning=meaning,
            remedy=remedy,
            measure=measure,
        )

    return decorate


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Result of a check for a method; `method` is None for code that all methods share.

    figure: None if the check does not apply, or if it stopped with `error`.
    """

    check: str
    method: str | None
    tolerance: float
    figure: float | None
    error: str = ""

    @property
    def applies(self) -> bool:
        """Whether the check has something to measure here."""
        return self.figure is not None or bool(self.error)

    @property
    def failed(self) -> bool:
        """Whether the figure is above the tolerance or not a number, or there is none."""
        if self.error:
            return True
        return self.figure is not None and not self.figure <= self.tolerance

    def to_json(self) -> dict[str, Any]:
        """Return the object in `findings` of `bench --check --json`."""
        return {
            "check": self.check,
            "method": self.method,
            "figure": self.figure,
            "passed": not self.failed if self.applies else None,
            "error": self.error or None,
        }
