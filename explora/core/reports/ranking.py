"""The report of `eval` for several runs: their ranking, with groups and intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from explora.core.reports.document import (
    Interval,
    Intervals,
    Level,
    Listing,
    Remarks,
    Report,
    Section,
    Table,
)
from explora.core.reports.figures import Column, figure_table, megabytes, minutes

if TYPE_CHECKING:
    from explora.core.ranking.candidates import LeftOut
    from explora.core.ranking.standing import Line, Ranking

MOST_SHOWN = 20  # lines of the plot


def ranking_report(command: str, task: str, ranking: Ranking, left_out: Sequence[LeftOut]) -> Report:
    """Return the report of a ranking."""
    entry, best = ranking.first_entry, ranking.lines[0]
    better = "higher" if ranking.higher_is_better else "lower"
    lead = [
        f"Best: {best.name}, {ranking.metric} {best.score:.4g} ({better} is better), "
        f"on {entry.rows.described}.",
        f"{sum(_shares_group(line, best) for line in ranking.lines)} of {len(ranking.lines)} lines are in "
        "the best group. Runs that share a letter are not distinguishable (paired tests over rows and "
        "seeds, Holm, 5 %).",
        *_compared_with_trivial(ranking),
        *([ranking.seeds_legend] if ranking.seeds_legend else []),
        *([entry.evaluation.doubt] if entry.evaluation.doubt else []),
    ]
    sections = [
        Section(heading="Ranking", blocks=(_plot(ranking), _table(ranking))),
    ]
    if len(ranking.lines) > 1:
        sections.append(Section(heading="Differences from the best", blocks=(_differences(ranking),)))
    if left_out:
        reasons = tuple(f"{each.name}: {each.reason}" for each in left_out)
        sections.append(Section(heading="Left out", blocks=(Remarks(lines=reasons),)))
    sections.append(Section(heading="How it was made", blocks=(Listing(title="The command", text=command),)))
    return Report(
        title=f"{task}: {len(ranking.lines)} lines ranked", lead=tuple(lead), sections=tuple(sections)
    )


def _compared_with_trivial(ranking: Ranking) -> list[str]:
    """Return a sentence on the best trivial answer; empty if the metric has none."""
    return [
        f"Best {level.label}: {ranking.metric} {level.value:.4g}. "
        f"{ranking.count_better(level.value)} of {len(ranking.lines)} lines are better."
        for level in _trivial(ranking)
    ]


def _shares_group(line: Line, best: Line) -> bool:
    return bool(set(line.letters) & set(best.letters))


def _plot(ranking: Ranking) -> Intervals:
    shown = ranking.lines[:MOST_SHOWN]
    cut = f" (the best {MOST_SHOWN} of {len(ranking.lines)})" if len(shown) < len(ranking.lines) else ""
    items = [
        Interval(
            label=f"{line.rank}. {line.name}  {line.letters}",
            value=line.score,
            low=line.interval[0],
            high=line.interval[1],
        )
        for line in shown
    ]
    return Intervals(
        title=f"{ranking.metric} with 95 % intervals and groups{cut}",
        x=ranking.metric,
        items=tuple(items),
        levels=_trivial(ranking),
    )


def _trivial(ranking: Ranking) -> tuple[Level, ...]:
    evaluation = ranking.first_entry.evaluation
    if ranking.metric not in evaluation.floors:
        return ()
    answer = evaluation.trivial_answers[ranking.metric]
    return (Level(label=f"trivial answer ({answer})", value=evaluation.floors[ranking.metric]),)


def _table(ranking: Ranking) -> Table:
    words = [
        (
            f"{line.rank}. {line.name}",
            line.letters,
            line.entries[0].candidate.method_label,
            ", ".join(f"{name} {value}" for name, value in line.settings.items()),
        )
        for line in ranking.lines
    ]
    header = ("run", "group", "method", "settings")
    return figure_table("The best first; the best figures are bold", header, words, _columns(ranking))


def _mean_of(metric: str) -> Callable[[Line], float]:
    return lambda line: line.mean_score(metric)


def _score(value: float) -> str:
    return f"{value:.4g}"


def _end(value: float) -> str:
    """Return the end of an interval as text; it may be unknown."""
    return "unknown" if math.isnan(value) else _score(value)


def _columns(ranking: Ranking) -> list[Column]:
    lines, evaluation = ranking.lines, ranking.first_entry.evaluation

    def column(
        name: str,
        find: Callable[[Line], float | None],
        write: Callable[[float], str] = _score,
        highest: bool | None = None,
    ) -> Column:
        return Column(name=name, values=[find(line) for line in lines], write=write, highest=highest)

    return [
        column(ranking.metric, lambda line: line.score, highest=ranking.higher_is_better),
        column("95 % from", lambda line: line.interval[0], _end),
        column("to", lambda line: line.interval[1], _end),
        column("seed sd", lambda line: line.seed_deviation, "{:.2g}".format),
        column("forgetting, nats per token", lambda line: line.forgetting, "{:+.3f}".format, highest=False),
        *(
            column(name, _mean_of(name), highest=evaluation.higher_is_better.get(name))
            for name in evaluation.scores or {}
            if name != ranking.metric
        ),
        column("minutes", lambda line: line.mean_result("seconds"), minutes, highest=False),
        column("peak MB", lambda line: line.mean_result("peak_memory_bytes"), megabytes, highest=False),
        column("trained parameters", lambda line: line.mean_result("trainable"), "{:,.0f}".format),
        column("file MB", lambda line: line.file_bytes, lambda size: f"{size / 1e6:,.2f}", highest=False),
    ]


def _differences(ranking: Ranking) -> Table:
    lines = [
        (
            f"{ranking.lines[pair.second].rank}. {ranking.lines[pair.second].name}",
            f"{-pair.difference.value:+.4g}",
            f"{-pair.difference.high:+.4g}",
            f"{-pair.difference.low:+.4g}",
            f"{pair.adjusted:.2g}",
        )
        for pair in ranking.pairs
        if pair.first == 0
    ]
    return Table(
        title=f"{ranking.metric} minus that of {ranking.lines[0].name}; p-values after Holm's method",
        header=("run", "difference", "95 % from", "to", "p"),
        lines=tuple(lines),
    )
