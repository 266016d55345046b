"""The plan of the study, plan.toml: from its stages to cells, each of which is one training run."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from benchmarks.study.rows import Row, best_power, powers_of
from explora.api import configure
from explora.core.config.registry import EMBEDDED

PLAN = Path(__file__).with_name("plan.toml")
ALL = "all"
CONTROL = "control"  # the base of data.find_base; its shape is that of the embedded one
FIRST_SEED = 1


@dataclass(frozen=True, kw_only=True)
class Data:
    """A data set. train, dev: files; choose, report: rows that choose, and rows that report; see data.py."""

    name: str
    task: str
    train: str
    dev: str
    choose: Mapping[str, Any]
    report: int
    epochs: int
    batch_size: int
    evaluations: int


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Some contenders on some rows of a data set. See plan.toml for the meaning of the fields."""

    name: str
    data: str = ""
    contenders: tuple[str, ...] = ()
    base: str = "embedded"
    rows: int | str | None = None
    powers: tuple[float, ...] = ()
    best_of: str | None = None
    rate_of: str | None = None
    default_rates: bool = True
    seeds: tuple[int, ...] = (FIRST_SEED,)
    epochs: int | None = None
    batch_size: int | None = None
    evaluations: int | None = None
    patience: int | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training: `power` is the exponent of its learning rate, 0 for the middle of the grid."""

    stage: str
    base: str
    data: Data
    rows: int | str
    contender: str
    power: float
    seed: int
    settings: Mapping[str, Any] = field(hash=False)

    @property
    def name(self) -> str:
        """Return what tells the cell from all others, as the path of its run folder."""
        data = f"{self.data.name}-{self.rows}"
        special = [
            f"{key.replace('_', '-')}{self.settings[key]}"
            for key, usual in (("batch_size", self.data.batch_size), ("epochs", self.data.epochs))
            if self.settings[key] != usual
        ]
        if "patience" in self.settings:
            special.append(f"patience{self.settings['patience']}")
        rate = f"lr{self.settings['learning_rate']:g}"
        base = Path(self.base).name  # never a folder outside of the runs
        return "/".join([base, "-".join([data, *special]), self.contender, f"{rate}-seed{self.seed}"])


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The whole plan, in order."""

    factor: float
    grow: int
    data: Mapping[str, Data]
    contenders: Mapping[str, Mapping[str, Any]]
    stages: tuple[Stage, ...]
    costs: tuple[str, ...] = ()
    middle: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def on(self, base: str) -> Plan:
        """Return the plan with another base for every stage."""
        return replace(self, stages=tuple(replace(stage, base=base) for stage in self.stages))

    def stage(self, name: str) -> Stage:
        """Return a stage by its name, with what it takes from the stage that it refers to."""
        found = next(stage for stage in self.stages if stage.name == name)
        if found.best_of is None:
            return found
        other = self.stage(found.best_of)
        names = {item.name for item in fields(Stage)} - {"name", "powers", "seeds", "best_of"}
        usual = Stage(name="")
        taken = {name: getattr(other, name) for name in names if getattr(found, name) == getattr(usual, name)}
        return replace(found, **(taken | {"default_rates": found.default_rates}))

    def sweeping(self) -> list[Stage]:
        """Return the stages that sweep learning rates."""
        return [stage for stage in self.stages if stage.best_of is None]

    def cells(self, stage: Stage, rows: Sequence[Row]) -> list[Cell]:
        """Return the cells of a stage that can be known from the rows so far.

        A grid grows where its best learning rate lies at an end. A stage that needs the best rates of
        another one has cells for those contenders that have one.
        """
        cells = [
            self._cell(stage, contender, power, seed)
            for seed in stage.seeds
            for contender in stage.contenders
            for power in self._powers(stage, contender, rows)
        ]
        return list({cell.name: cell for cell in cells}.values())

    def _powers(self, stage: Stage, contender: str, rows: Sequence[Row]) -> Iterator[float]:
        if stage.best_of is None:
            yield from stage.powers
            yield from self._grown(stage, contender, rows)
            return
        best = best_power(rows, stage.best_of, stage.rate_of or contender)
        if best is not None:
            yield best
            if stage.default_rates:
                yield round(self.default_power(stage, contender), 1)

    def _grown(self, stage: Stage, contender: str, rows: Sequence[Row]) -> Iterator[float]:
        """Yield the learning rates beyond the grid: one more than was tried, where the best is at an end."""
        tried = powers_of(rows, stage.name, contender)
        yield from sorted(tried - set(stage.powers))
        best = best_power(rows, stage.name, contender)
        if best is None or not set(stage.powers) <= tried or len(tried - set(stage.powers)) >= self.grow:
            return
        if best == max(tried):
            yield best + 1
        elif best == min(tried):
            yield best - 1

    def default_power(self, stage: Stage, contender: str) -> float:
        """Return the power of today's default learning rate; in general it is not a whole number."""
        return math.log(self._default(stage, contender) / self._middle(stage, contender), self.factor)

    def _middle(self, stage: Stage, contender: str) -> float:
        """Return the learning rate of power 0; for a base that the plan does not name, the default."""
        if stage.base in (EMBEDDED, CONTROL) and self.middle:
            return self.middle[self.data[stage.data].task][self.contenders[contender]["method"]]
        return self._default(stage, contender)

    def _default(self, stage: Stage, contender: str) -> float:
        base = EMBEDDED if stage.base == CONTROL else stage.base
        settings = dict(self.contenders[contender]) | {"model": base}
        return configure(self.data[stage.data].task, settings).optimizer.learning_rate

    def _cell(self, stage: Stage, contender: str, power: float, seed: int) -> Cell:
        data = self.data[stage.data]
        settings = dict(self.contenders[contender]) | {
            "learning_rate": float(f"{self._middle(stage, contender) * self.factor**power:.2g}"),
            "epochs": stage.epochs or data.epochs,
            "batch_size": stage.batch_size or data.batch_size,
        }
        if stage.patience is not None:
            settings["patience"] = stage.patience
        return Cell(
            stage=stage.name,
            base=stage.base,
            data=data,
            rows=stage.rows or ALL,
            contender=contender,
            power=power,
            seed=seed,
            settings=settings | {"evaluations": stage.evaluations or data.evaluations},
        )


def read_plan(file: Path = PLAN) -> Plan:
    """Read a plan."""
    found = tomllib.loads(file.read_text(encoding="utf-8"))
    return Plan(
        factor=found["factor"],
        grow=found["grow"],
        data={name: Data(name=name, **values) for name, values in found["data"].items()},
        contenders=found["contenders"],
        middle=found.get("middle", {}),
        costs=tuple(each["options"] for each in found.get("cost", ())),
        stages=tuple(
            Stage(**{key: _frozen(value) for key, value in each.items()}) for each in found["stage"]
        ),
    )


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
