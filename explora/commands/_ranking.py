"""Rank several runs with `explora eval`, as a table that fits the terminal or as JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explora import console
from explora.commands._reports import save_report, this_command
from explora.commands._scored_runs import Request, score_runs
from explora.commands._scores import show_interval
from explora.quantities import duration, sizes

if TYPE_CHECKING:
    from explora.core.ranking.candidates import LeftOut
    from explora.core.ranking.standing import Line, Ranking

LEGEND = "Runs that share a letter are not distinguishable (paired tests over rows and seeds, Holm, 5 %)."


def rank_runs(request: Request, *, json: bool, report: Path | None) -> None:
    """Score runs on the same rows, rank them, and write the ranking."""
    from explora.core.ranking.standing import rank

    entries, left_out = score_runs(request)
    ranking = rank(entries)
    if json:
        console.result_json(ranking_to_json(request.task, ranking, left_out))
    else:
        show_ranking(ranking)
    if report is not None:
        from explora.core.reports.ranking import ranking_report

        save_report(report, ranking_report(this_command(), request.task, ranking, left_out))


def ranking_to_json(task: str, ranking: Ranking, left_out: Sequence[LeftOut]) -> dict[str, Any]:
    """Return the object of `eval --json` for several runs."""
    from explora.core.ranking.standing import to_json

    entry = ranking.first_entry
    floors, answers = entry.evaluation.floors, entry.evaluation.trivial_answers
    return {
        "task": task,
        "data": entry.rows.data,
        "split": entry.rows.split,
        "examples": entry.evaluation.examples,
        "skipped": len(entry.rows.found.skipped),
        "trivial": {"score": floors[ranking.metric], "answer": answers[ranking.metric]}
        if ranking.metric in floors
        else None,
        **to_json(ranking),
        "left_out": [{"run": each.name, "reason": each.reason} for each in left_out],
    }


def show_ranking(ranking: Ranking) -> None:
    """Write the table, the most important columns first."""
    memory = sizes([line.mean_result("peak_memory_bytes") for line in ranking.lines])
    files = sizes([line.file_bytes for line in ranking.lines])
    lines = [_cells(*each, ranking) for each in zip(ranking.lines, memory, files, strict=True)]
    header = [name for name in lines[0] if any(line[name] for line in lines)]
    best = 0
    if (trivial := _trivial_cells(ranking)) is not None:
        better = ranking.count_better(ranking.first_entry.evaluation.floors[ranking.metric])
        lines.insert(better, trivial)
        best = 0 if better else 1
    console.result_table(header, [[line.get(name, "") for name in header] for line in lines], best=best)
    console.note(LEGEND)
    if legend := ranking.seeds_legend:
        console.note(legend)
    if doubt := ranking.first_entry.evaluation.doubt:
        console.note(doubt)


def _cells(line: Line, memory: str, file: str, ranking: Ranking) -> dict[str, str]:
    """Return the cells of a line by column, the most important first; empty if there is no value."""
    first, deviation = line.entries[0], line.seed_deviation
    others = [name for name in first.evaluation.scores or {} if name != ranking.metric]
    return {
        "run": f"{line.rank}. {line.name}",
        ranking.metric: f"{line.score:.4g}",
        "95 % interval": show_interval(*line.interval),
        "group": line.letters,
        "method": first.candidate.method_label,
        "forgetting": _show(line.forgetting, "{:+.3f}".format),
        "seed sd": _show(deviation, "{:.2g}".format),
        "time": _show(line.mean_result("seconds"), duration),
        "memory": memory,
        "settings": ", ".join(f"{name} {value}" for name, value in line.settings.items()),
        "trained": _show(line.mean_result("trainable"), "{:,.0f}".format),
        "file": file,
        **{name: f"{line.mean_score(name):.4g}" for name in others},
    }


def _show(value: float | None, write: Callable[[float], str]) -> str:
    return "" if value is None else write(value)


def _trivial_cells(ranking: Ranking) -> dict[str, str] | None:
    """Return the line of the best trivial answer, or None if the metric has none."""
    evaluation = ranking.first_entry.evaluation
    if ranking.metric not in evaluation.floors:
        return None
    answer = evaluation.trivial_answers[ranking.metric]
    return {"run": f"-  ({answer})", ranking.metric: f"{evaluation.floors[ranking.metric]:.4g}"}
