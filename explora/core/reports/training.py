"""The report of `train`: one run, or the runs of a sweep."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from explora.core.config.run_config import all_settings, settings_of
from explora.core.config.setting import spelled
from explora.core.estimate.memory import Memory
from explora.core.reports.document import (
    Bar,
    Bars,
    Block,
    Curves,
    Interval,
    Intervals,
    Level,
    Listing,
    Report,
    Section,
    Series,
    Table,
)
from explora.core.reports.figures import Column, figure_table, machine_table, megabytes, minutes
from explora.core.reports.scores import score_blocks
from explora.core.reports.seed_bands import group_by, mean_curve, mean_of, smooth
from explora.core.reports.trained_runs import Points, TrainedRun
from explora.core.runs.samples import BEST, MIDDLE, START, Sample

MOMENTS = {START: "Before training", MIDDLE: "In the middle", BEST: "Best step"}
MOST_SHOWN = 8  # limit for curves or bars in a plot
SEEDS = "line: mean over seeds, band: lowest to highest"


def training_report(
    command: str, runs: Sequence[TrainedRun], metric: str, *, higher_is_better: bool
) -> Report:
    """Return the report of at least one finished run; `metric` is the score that chooses the best step."""
    ranked = sorted(runs, key=lambda run: run.best_dev, reverse=higher_is_better)
    best, config = ranked[0], ranked[0].record.run
    is_sweep = len(runs) > 1
    title = f"Sweep of {config.task}: {len(runs)} runs" if is_sweep else f"{config.task}: {best.name}"
    sections = [
        Section(heading="Scores", blocks=_scores(ranked, metric, higher_is_better)),
        Section(heading="Learning curves", blocks=_curves(ranked, metric)),
        Section(heading="Memory", blocks=_memory(ranked)),
    ]
    if best.samples:
        sections.append(Section(heading="Samples", blocks=tuple(map(_sample, best.samples))))
    sections.append(Section(heading="How it was made", blocks=_origin(command, ranked)))
    return Report(title=title, lead=_lead(best, metric, is_sweep=is_sweep), sections=tuple(sections))


def _lead(best: TrainedRun, metric: str, *, is_sweep: bool) -> tuple[str, ...]:
    result, run = best.result, best.record.run
    which = f"Best run: {best.name}. Its" if is_sweep else "The"
    found = [
        f"{which} dev {metric} is {best.best_dev:.4g}, "
        f"at step {result['best_step']:,} of {result['steps']:,}.",
        f"{run.method.description}, on {run.model}: {result['trainable']:,} of {result['total']:,} "
        f"parameters trained ({result['share']:.2%}).",
    ]
    if (floor := result["floors"].get(metric)) is not None:
        answer = result.get("trivial_answers", {}).get(metric, "")
        found.append(f"Best trivial answer{f' ({answer})' if answer else ''}: {metric} {floor:.4g}.")
    if is_sweep:
        found.append(
            "The best of several dev scores is too optimistic, because it was selected for its value: "
            "score that run on a test set.",
        )
    return tuple(found)


def _scores(ranked: Sequence[TrainedRun], metric: str, higher_is_better: bool) -> tuple[Block, ...]:
    if len(ranked) == 1:
        return score_blocks("Scores of the best step on the dev set", metric, ranked[0].result)
    blocks: list[Block] = [_runs_table(ranked, metric, higher_is_better), _intervals(ranked, metric)]
    seeds = {run.record.run.training.seed for run in ranked}
    if len(seeds) > 1:
        blocks.insert(1, _seeds_table(ranked, metric, higher_is_better))
    if response := _learning_rate_response(ranked, metric):
        blocks.append(response)
    return tuple(blocks)


def _runs_table(ranked: Sequence[TrainedRun], metric: str, higher_is_better: bool) -> Table:
    def column(name: str, fact: str, write: Callable[[float], str], highest: bool | None = None) -> Column:
        return Column(name=name, values=[run.result[fact] for run in ranked], write=write, highest=highest)

    dev = [run.best_dev for run in ranked]
    columns = [
        Column(name=f"dev {metric}", values=dev, write="{:.4f}".format, highest=higher_is_better),
        column("best step", "best_step", "{:,}".format),
        column("steps", "steps", "{:,}".format),
        column("trained parameters", "trainable", "{:,}".format),
        column("minutes", "seconds", minutes, highest=False),
        column("tokens/s", "tokens_per_second", "{:,.0f}".format, highest=True),
        column("peak MB", "peak_memory_bytes", megabytes, highest=False),
    ]
    names = [(run.name,) for run in ranked]
    return figure_table("Runs, the best first; the best figures are bold", ("run",), names, columns)


def _seeds_table(ranked: Sequence[TrainedRun], metric: str, higher_is_better: bool) -> Table:
    groups = group_by(ranked, TrainedRun.settings)
    found = {label or "all runs": [run.best_dev for run in group] for label, group in groups.items()}
    order = sorted(found.items(), key=lambda item: fmean(item[1]), reverse=higher_is_better)
    lines = [
        (label, f"{len(each)}", f"{fmean(each):.4f}", f"{min(each):.4f}", f"{max(each):.4f}")
        for label, each in order
    ]
    return Table(
        title="Over random seeds",
        header=("settings", "seeds", f"mean dev {metric}", "lowest", "highest"),
        lines=tuple(lines),
        best=frozenset({(0, 2)} if len(lines) > 1 else ()),
    )


def _intervals(ranked: Sequence[TrainedRun], metric: str) -> Intervals:
    found = [(run.name, run.result["scores"][metric], run.result["intervals"][metric]) for run in ranked]
    items = [
        Interval(label=name, value=value, low=low, high=high)
        for name, value, (low, high) in found[:MOST_SHOWN]
        if None not in (value, low, high)  # JSON has null for NaN and infinity
    ]
    return Intervals(
        title=f"{metric} of the best step with 95 % intervals{_cut(ranked)}",
        x=metric,
        items=tuple(items),
        levels=_trivial(ranked, metric),
    )


def _learning_rate_response(ranked: Sequence[TrainedRun], metric: str) -> Curves | None:
    """Return the dev score over the learning rate, one curve per other setting; None for a single rate."""
    if len({run.record.run.optimizer.learning_rate for run in ranked}) < 2:
        return None
    curves = []
    for label, group in group_by(ranked, lambda run: run.settings("learning_rate")).items():
        by_rate = group_by(group, lambda run: run.record.run.optimizer.learning_rate)
        scores = {rate: [run.best_dev for run in by_rate[rate]] for rate in sorted(by_rate)}
        curves.append(mean_of(label or "all runs", list(scores), list(scores.values())))
    return Curves(
        title=f"Dev {metric} by learning rate ({SEEDS})",
        x="learning rate",
        y=f"dev {metric}",
        series=tuple(curves[:MOST_SHOWN]),
        levels=_trivial(ranked, metric),
        log_x=True,
    )


def _curves(ranked: Sequence[TrainedRun], metric: str) -> tuple[Block, ...]:
    """Return the loss and the dev score over the steps; groups of runs without common steps are left out."""
    groups = group_by(ranked, TrainedRun.settings)
    unnamed = ranked[0].name if len(ranked) == 1 else "all runs"
    shown = {label or unnamed: group for label, group in list(groups.items())[:MOST_SHOWN]}
    note = f" ({SEEDS})" if any(len(group) > 1 for group in shown.values()) else ""
    losses = {
        label: [smooth(run.losses, run.result["steps"]) for run in group] for label, group in shown.items()
    }
    scores = {label: [run.dev for run in group] for label, group in shown.items()}
    plots = [
        Curves(title=f"Training loss{note}", x="step", y="loss in nats", series=_mean_curves(losses)),
        Curves(
            title=f"Dev {metric}{note}",
            x="step",
            y=f"dev {metric}",
            series=_mean_curves(scores),
            levels=_trivial(ranked, metric),
        ),
    ]
    return tuple(plot for plot in plots if plot.series)


def _mean_curves(groups: Mapping[str, Sequence[Points]]) -> tuple[Series, ...]:
    curves = (mean_curve(label, group) for label, group in groups.items())
    return tuple(curve for curve in curves if curve.xs)


def _memory(ranked: Sequence[TrainedRun]) -> tuple[Block, ...]:
    """Return measured peaks together with predicted parts; runs with equal predictions share a line."""
    groups = group_by(ranked, lambda run: run.memory)
    unknown = groups.pop(None, [])
    blocks: list[Block] = []
    if groups:
        blocks += _predicted_memory({memory: group for memory, group in groups.items() if memory})
    if unknown:
        lines = [(run.name, megabytes(run.result["peak_memory_bytes"])) for run in unknown]
        blocks.append(Table(title="Peak memory, measured", header=("run", "MB"), lines=tuple(lines)))
    return tuple(blocks)


def _predicted_memory(groups: Mapping[Memory, Sequence[TrainedRun]]) -> list[Block]:
    bars, lines = list[Bar](), list[tuple[str, ...]]()
    for memory, group in groups.items():
        name = group[0].name + (f" +{len(group) - 1}" if len(group) > 1 else "")
        peak = max(run.result["peak_memory_bytes"] for run in group)
        parts = asdict(memory)
        sizes = map(megabytes, (*parts.values(), memory.peak, peak))
        lines.append((name, *sizes))
        bars.append(
            Bar(label=name, parts={part: size / 1e6 for part, size in parts.items()}, mark=peak / 1e6)
        )
    return [
        Bars(
            title="Peak memory: the parts as predicted, and the measured peak",
            x="MB",
            bars=tuple(bars[:MOST_SHOWN]),
            mark="measured peak",
        ),
        Table(
            title="Peak memory in MB: predicted parts, and the largest measured peak of the runs in a line",
            header=("run", *asdict(next(iter(groups))), "predicted peak", "measured peak"),
            lines=tuple(lines),
        ),
    ]


def _sample(sample: Sample) -> Listing:
    title = f"{MOMENTS[sample.moment]} (step {sample.step:,}); the prompt is the first line"
    return Listing(title=title, text=sample.prompt + sample.text)


def _origin(command: str, ranked: Sequence[TrainedRun]) -> tuple[Block, ...]:
    best = ranked[0]
    again = f"explora train {best.record.run.task} --config {best.result['run']}/run.json -o again"
    commands = Listing(title="The command, and one that repeats the best run", text=f"{command}\n{again}")
    return commands, _settings_table(ranked), machine_table(best.record.machine)


def _settings_table(ranked: Sequence[TrainedRun]) -> Table:
    """Return every setting that the runs share; the names of the runs show the others."""
    shown = [_settings(run) for run in ranked]
    shared = {name: text for name, text in shown[0].items() if all(each.get(name) == text for each in shown)}
    title = "Settings that all runs share" if len(ranked) > 1 else "Settings"
    return Table(title=title, header=("setting", "value"), lines=tuple(shared.items()))


def _settings(run: TrainedRun) -> Mapping[str, str]:
    config = run.record.run
    known: Mapping[str, Any] = all_settings(type(config.method))
    return {
        spelled(name): known[name].show(value) if name in known else str(value)
        for name, value in settings_of(config).items()
        if value is not None
    }


def _trivial(ranked: Sequence[TrainedRun], metric: str) -> tuple[Level, ...]:
    floors = [run.result["floors"].get(metric) for run in ranked]
    if floors[0] is None or len(set(floors)) > 1:  # runs with different seeds may hold out different rows
        return ()
    return (Level(label="best trivial answer", value=floors[0]),)


def _cut(ranked: Sequence[TrainedRun]) -> str:
    return f" (the best {MOST_SHOWN} of {len(ranked)} runs)" if len(ranked) > MOST_SHOWN else ""
