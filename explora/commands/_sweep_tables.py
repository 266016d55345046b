"""Write a sweep to stdout: its plan, its cells from best to worst, and their JSON objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from explora import console
from explora.commands._scores import beats_trivial
from explora.core.sweeps.outcomes import State
from explora.quantities import duration, sizes

if TYPE_CHECKING:
    from explora.core.sweeps.run import CellProgress, Sweep


def show_plan(opened: Sweep, *, json: bool) -> None:
    """Write every cell with its steps, predicted memory and time."""
    cells = list(opened.own.values())
    if json:
        for each in cells:
            console.result_json(_plan_json(opened, each))
        return
    memory = sizes([each.forecast.memory_bytes for each in cells])
    rows = [
        (
            each.cell.name,
            each.outcome.state,
            _steps(each.forecast.steps),
            size or "-",
            _time_left(opened, each),
        )
        for each, size in zip(cells, memory, strict=True)
    ]
    console.result_table(("cell", "state", "steps", "predicted memory", "time left"), rows)
    total = opened.seconds_of(*cells)
    time = "" if total is None else f", about {duration(total / opened.jobs)}"
    console.result(f"\n{len(cells)} cells in {opened.folder}, {opened.jobs} at once{time}")


def _plan_json(opened: Sweep, progress: CellProgress) -> dict[str, Any]:
    return {
        "cell": progress.cell.name,
        "state": progress.outcome.state,
        "folder": str(progress.folder),
        "settings": dict(progress.cell.varied),
        "steps": progress.forecast.steps,
        "predicted_memory_bytes": progress.forecast.memory_bytes,
        "seconds_left": opened.seconds_of(progress),
        "config": progress.cell.run.to_json(),
    }


def _steps(steps: int | None) -> str:
    return "-" if steps is None else f"{steps:,}"


def _time_left(opened: Sweep, progress: CellProgress) -> str:
    seconds = opened.seconds_of(progress)
    return "-" if seconds is None else duration(seconds)


def show_result(opened: Sweep, *, json: bool) -> None:
    """Write the finished cells from best to worst, and the next command."""
    if json:
        console.result_json({"summary": _summary(opened)})
    ranked = opened.ranked()
    if not ranked:
        return
    if not json:
        _show_ranking(opened, ranked)
        _show_seeds(opened)
        _explain_trivial(opened, ranked)
    if len(ranked) > 1:
        console.note(
            f"the best of {len(ranked)} dev scores is optimistic, because it was chosen for being the best: "
            "score that cell on a test set that was not used to choose"
        )
    console.note(f"next: explora eval {opened.plan.task} {opened.folder}/*/")


def _show_ranking(opened: Sweep, ranked: list[CellProgress]) -> None:
    results = [each.outcome.result or {} for each in ranked]
    memory = sizes([result["peak_memory_bytes"] for result in results])
    rows = [
        (
            each.cell.name,
            f"{each.outcome.dev:.4f}",
            _trivial(opened, each),
            f"{result['best_step']:,} of {result['steps']:,}",
            f"{result['trainable']:,}",
            duration(result["seconds"]),
            size,
        )
        for each, result, size in zip(ranked, results, memory, strict=True)
    ]
    header = ("cell", f"dev {opened.metric}", "trivial", "best step", "trained", "time", "peak memory")
    console.result_table(header, rows, best=0)


def _trivial(opened: Sweep, progress: CellProgress) -> str:
    """Return the best trivial score on the dev rows of a cell, and mark a cell that is not better."""
    floor = _floor(opened, progress)
    if floor is None:
        return "-"
    return f"{floor:.4f}" if _beats_trivial(opened, progress) else f"{floor:.4f} (not beaten)"


def _floor(opened: Sweep, progress: CellProgress) -> float | None:
    floors = (progress.outcome.result or {}).get("floors", {})
    return cast("float | None", floors.get(opened.metric))


def _beats_trivial(opened: Sweep, progress: CellProgress) -> bool:
    """Return whether a cell is better than the best trivial answer; also if there is none."""
    dev, higher = progress.outcome.dev, opened.higher_is_better
    return dev is None or beats_trivial(dev, _floor(opened, progress), higher_is_better=higher)


def _explain_trivial(opened: Sweep, ranked: list[CellProgress]) -> None:
    """Name the best trivial answer, and warn if no cell is better."""
    result = ranked[0].outcome.result or {}
    answer = result.get("trivial_answers", {}).get(opened.metric)
    if answer is not None:
        console.note(f'trivial: dev {opened.metric} of the best answer without a model, "{answer}"')
    if not any(_beats_trivial(opened, each) for each in ranked):
        console.warn(
            "no cell is better than the best trivial answer: "
            "train longer, or try another learning rate (--lr)"
        )


def _show_seeds(opened: Sweep) -> None:
    """Write the mean over seeds of each setting, if there are several seeds."""
    rows = [
        (
            group.name,
            str(len(group.scores)),
            f"{group.mean:.4f}",
            f"{min(group.scores):.4f}",
            f"{max(group.scores):.4f}",
        )
        for group in opened.over_seeds()
    ]
    if rows:
        console.result("")
        console.result_table(("settings", "seeds", f"mean dev {opened.metric}", "lowest", "highest"), rows)


def cell_json(progress: CellProgress) -> dict[str, Any]:
    """Return the JSON object of a cell that has finished or failed."""
    outcome = progress.outcome
    return {
        "cell": progress.cell.name,
        "state": outcome.state,
        "folder": str(progress.folder),
        "settings": dict(progress.cell.varied),
        "dev_score": outcome.dev,
        "result": outcome.result,
        "error": outcome.error,
    }


def _summary(opened: Sweep) -> dict[str, Any]:
    ranked = opened.ranked()
    return {
        "task": opened.plan.task,
        "folder": str(opened.folder),
        "metric": opened.metric,
        "higher_is_better": opened.higher_is_better,
        "cells": len(opened.own),
        "finished": len(opened.with_state(State.FINISHED)),
        "failed": [each.cell.name for each in opened.with_state(State.FAILED)],
        "unfinished": [each.cell.name for each in opened.with_state(State.STOPPED, State.WAITING)],
        "ranking": [each.cell.name for each in ranked],
        "over_seeds": [
            {"settings": dict(group.settings), "scores": list(group.scores), "mean": group.mean}
            for group in opened.over_seeds()
        ],
    }
