"""The tables of README.md: published figures, results on gpt2, and results on the embedded base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from benchmarks.paper.matching import studied, trained, training_rows
from benchmarks.paper.prices import Count, Price, measured, price_of
from benchmarks.paper.published import Published
from benchmarks.study.markdown import table
from benchmarks.study.plan import Plan, Stage
from benchmarks.study.results import Result
from benchmarks.study.rows import Row
from explora.api import configure
from explora.core.base.find import shape_of
from explora.core.config.registry import EMBEDDED, Shape
from explora.core.estimate.parameters import count

UNKNOWN = "not known here"
NOT_RUN = "not run"
CHRF = ("course_chrf_sampled", "chrf_sampled")
GIVEN = (1, 3, 6, 12)
CLASSES = 5  # of SST, for the head of last-linear


@dataclass(frozen=True, kw_only=True)
class Material:
    """What the tables are made from.

    plan, rows: the paper's plan and its rows on gpt2; study, study_rows: those of the study; floors: scores
    to beat; costs: measured speed and memory; counts: sizes of the training sets.
    """

    plan: Plan
    rows: Sequence[Row]
    study: Plan
    study_rows: Sequence[Row]
    floors: Sequence[Row]
    costs: Sequence[Row]
    counts: Mapping[str, Count]
    published: Published


def all_tables(material: Material) -> str:
    """Return the four tables and the published figures as Markdown."""
    sentiment = [stage for stage in material.plan.stages if stage.data in ("sst", "cfimdb")]
    quora = [stage for stage in material.plan.stages if stage.data == "quora"]
    parts = [
        "## Table 1: SST and CFIMDB, accuracy", scores(sentiment, material),
        "## Table 2: Quora as a cloze, LoRA on key and value, accuracy", scores(quora, material),
        "## Table 3: sonnets, LoRA on attention and feed-forward", chrf(material),
        "Perplexity by the number of given lines:", perplexity(material),
        "## Table 4: parameters, training time and memory of GPT-2's shape", costs(material),
        "## Price of what is left", prices(material),
        "## All published figures", published(material.published),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def scores(stages: Sequence[Stage], material: Material) -> str:
    """Return a line for each contender and batch size of classification stages."""
    lines = []
    order = list(material.plan.contenders)
    for stage, contender in sorted(
        _cells(stages),
        key=lambda cell: (cell[0].data, order.index(cell[1]), _batch_size(cell[0], material)),
    ):
        figure = material.published.of(stage.data, contender)
        own = trained(material.rows, stage, contender)
        small = _studied(stage, contender, material)
        lines.append(
            [stage.data, contender, str(_batch_size(stage, material)),
             _paper(stage.data, contender, material),
             f"{figure.value:.3f} ({figure.source})" if figure else UNKNOWN,
             NOT_RUN if own is None else f"{own.score:.3f}",
             NOT_RUN if small is None else f"{small.score:.3f} {_circumstances(small)}",
             _minus(small.score if small else None, figure.value if figure else None, 3)]
        )  # fmt: skip
    header = (
        "data", "method", "batch size", "the paper", "published by others", "gpt2, here", "embedded base",
        "embedded minus published",
    )  # fmt: skip
    return table(header, lines)


def chrf(material: Material) -> str:
    """Return chrF on both scales, with what needs no training."""
    lines = []
    for floor in _sonnet_floors(material):
        for label, found in _untrained(floor, CHRF[0]):
            whole, alone = (_digits(found[scale]) for scale in CHRF)
            lines.append([label, "", "", "", "", whole, "", alone])
    for stage, contender in _sonnets(material):
        figure = material.published.of(stage.data, contender)
        own = trained(material.rows, stage, contender)
        small = _studied(stage, contender, material)
        whole, alone = _means(small, CHRF)
        difference = _minus(_mean(small, CHRF[0]), figure.value if figure else None, 2)
        lines.append(
            [contender, _paper(stage.data, contender, material),
             f"{figure.value:.2f} ({figure.source})" if figure else UNKNOWN,
             *_means(own, CHRF), whole, difference, alone]
        )  # fmt: skip
    header = (
        "answer or method", "the paper, continuation only", "published by others, whole poem",
        "gpt2 here, whole poem", "gpt2 here, continuation only", "embedded base, whole poem",
        "embedded minus published", "embedded base, continuation only",
    )  # fmt: skip
    return table(header, lines)


def perplexity(material: Material) -> str:
    """Return the perplexity of each base after each number of given lines."""
    names = [f"perplexity_given_{given}" for given in GIVEN]
    lines = []
    for floor in _sonnet_floors(material):
        for label, found in _untrained(floor, names[0]):
            lines.append([label, EMBEDDED, *(_digits(found[name]) for name in names)])
    for stage, contender in _sonnets(material):
        lines.append([contender, EMBEDDED, *_means(_studied(stage, contender, material), names)])
        lines.append([contender, stage.base, *_means(trained(material.rows, stage, contender), names)])
    return table(("answer or method", "base", *(f"{given} given" for given in GIVEN)), lines)


def costs(material: Material) -> str:
    """Return exact parameters, and measured speed and memory over those of full fine-tuning."""
    gpt2, embedded = shape_of(material.plan.stages[0].base), shape_of(EMBEDDED)
    lines = []
    for name, settings in material.plan.contenders.items():
        row = measured(material.costs, settings)
        full = next(
            (each for each in material.costs
             if row is not None and each["command"] == row["command"] and each["method"] == "full"),
            None,
        )  # fmt: skip
        lines.append([name, _parameters(gpt2, settings), _parameters(embedded, settings), *_over(row, full)])
    header = (
        "method", "trained parameters, gpt2", "trained parameters, embedded base", "tokens/s, gpt2's shape",
        "time per token over full", "peak memory", "peak memory over full",
    )  # fmt: skip
    return table(header, lines)


def prices(material: Material) -> str:
    """Return the price of the cells of each stage that have no row."""
    done = {row["cell"] for row in material.rows}
    lines, total = [], []
    for stage in material.plan.stages:
        cells = material.plan.cells(material.plan.stage(stage.name), material.rows)
        found = [
            price_of(cell, material.counts[cell.data.name], material.costs)
            for cell in cells
            if cell.name not in done
        ]
        lines.append([stage.name, f"{len(found)} of {len(cells)}", *_sum(found)])
        total += found
    lines.append(["all", str(len(total)), *_sum(total)])
    return table(("stage", "cells left", "steps", "M tokens", "PFLOP", "hours"), lines)


def published(known: Published) -> str:
    """Return all published figures, and what their sources are."""
    lines = [
        [each.data, each.contender, each.metric, f"{each.value:g}", each.source, each.note]
        for each in known.figures
    ]
    sources = [f"- {name}: {source}" for name, source in known.sources.items()]
    header = ("data", "method", "score", "figure", "source", "settings")
    return "\n".join([table(header, lines), "", *sources])


def _cells(stages: Sequence[Stage]) -> Iterator[tuple[Stage, str]]:
    return ((stage, contender) for stage in stages for contender in stage.contenders)


def _sonnets(material: Material) -> Iterator[tuple[Stage, str]]:
    return _cells([stage for stage in material.plan.stages if stage.data == "sonnets"])


def _sonnet_floors(material: Material) -> list[Row]:
    return [
        floor
        for floor in material.floors
        if (floor["floor"], floor["data"], floor["base"]) == ("untrained", "sonnets", EMBEDDED)
    ]


def _untrained(floor: Row, metric: str) -> Iterator[tuple[str, Mapping[str, float]]]:
    """Yield the trivial answer for a metric and the untrained base, with the scores of each."""
    yield floor["trivial_answers"][metric], floor["trivial"]
    yield "embedded base without training", floor["scores"]


def _batch_size(stage: Stage, material: Material) -> int:
    return stage.batch_size or material.plan.data[stage.data].batch_size


def _studied(stage: Stage, contender: str, material: Material) -> Result | None:
    batch_size = _batch_size(stage, material)
    return studied(material.study, material.study_rows, stage.data, contender, batch_size)


def _paper(data: str, contender: str, material: Material) -> str:
    figure = material.published.of_paper(data, contender)
    return UNKNOWN if figure is None else f"{figure.value:g}"


def _circumstances(result: Result) -> str:
    """Return on how many training rows and seeds a result stands, and its learning rate."""
    seeds = len(result.rows)
    many = "one seed" if seeds == 1 else f"{seeds} seeds"
    return f"({training_rows(result):,} rows, {result.learning_rate:g}, {many})"


def _means(result: Result | None, metrics: Sequence[str]) -> list[str]:
    return [NOT_RUN if result is None else _digits(_mean(result, metric)) for metric in metrics]


def _mean(result: Result | None, metric: str) -> float | None:
    if result is None:
        return None
    found = [row["scores"][metric] for row in result.rows if row.get("scores")]
    return fmean(found) if found else None


def _minus(value: float | None, other: float | None, digits: int) -> str:
    return "" if value is None or other is None else f"{value - other:+.{digits}f}"


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _parameters(shape: Shape, settings: Mapping[str, object]) -> str:
    task = "sentiment" if settings["method"] == "last-linear" else "paraphrase"
    method = configure(task, settings).method
    found = count(shape, method, classes=CLASSES if method.needs_head else 0)
    return f"{found.trainable:,} ({100 * found.share:.3g} %)"


def _over(row: Row | None, full: Row | None) -> list[str]:
    if row is None or full is None:
        return ["not measured", "", "", ""]
    return [
        f"{row['tokens_per_second']:,.0f}",
        f"{full['tokens_per_second'] / row['tokens_per_second']:.2f}",
        f"{row['peak_memory_bytes'] / 1e6:,.0f} MB",
        f"{row['peak_memory_bytes'] / full['peak_memory_bytes']:.2f}",
    ]


def _sum(found: Sequence[Price]) -> list[str]:
    hours = [price.hours for price in found]
    known = None not in hours
    return [
        f"{sum(price.steps for price in found):,}",
        f"{sum(price.tokens for price in found) / 1e6:.1f}",
        f"{sum(price.flop for price in found) / 1e15:.1f}",
        f"{sum(filter(None, hours)):.1f}" if known else UNKNOWN,
    ]
