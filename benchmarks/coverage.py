"""Measure by simulation how often the intervals of paired.py hold the true difference of two systems.

    python benchmarks/coverage.py --simulations 1000 -o benchmarks/results/coverage

Two systems with known true scores answer random examples. Some examples are hard for both. Each system is
trained with one or several seeds, and a seed shifts how well it answers. With one seed the truth is the
difference of these two trained models, with several it is that of their settings: the mean over all seeds.
Three wrong methods are measured beside the right one. The output is one JSON line per row, and a table.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from explora.core.tasks.metrics import Score, accuracy, macro_f1, perplexity
from explora.core.tasks.paired import PairedScores
from explora.core.tasks.student_t import critical_value

BETTER = 0.1  # shift of the first system; that of the second is zero
SYSTEM, RUN = 0.5, 0.7  # how differently systems, and runs of one system, find the examples hard
RARE, HARDER = 0.3, 0.4  # share of class 1, and how much harder its examples are
RESAMPLES = 300
NORMAL = NormalDist()
Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A row of the table: `spread` is the standard deviation of the shift that a seed makes."""

    metric: str
    examples: int
    seeds: int
    spread: float


SETTINGS = [
    *(Setting(metric="accuracy", examples=n, seeds=1, spread=0.05) for n in (100, 500)),
    *(Setting(metric="accuracy", examples=500, seeds=s, spread=w) for w in (0, 0.05, 0.2) for s in (3, 5)),
    *(Setting(metric="macro F1", examples=500, seeds=s, spread=0.1) for s in (1, 3, 5)),
    *(Setting(metric="perplexity", examples=n, seeds=1, spread=0.02) for n in (12, 100)),
    *(Setting(metric="perplexity", examples=100, seeds=s, spread=w) for w in (0, 0.02, 0.1) for s in (3, 5)),
]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The scores of both systems, a score for each seed, and the true difference."""

    first: list[Score]
    second: list[Score]
    truth: float


def draw(setting: Setting, generator: np.random.Generator) -> Trial:
    """Draw examples, two systems and their seeds."""
    answer, population = METRICS[setting.metric]
    hardness = generator.standard_normal(setting.examples)
    kinds = generator.random(setting.examples)
    shifts = [mean + setting.spread * generator.standard_normal(setting.seeds) for mean in (BETTER, 0.0)]
    systems = []
    for seeds in shifts:
        of_system = hardness + SYSTEM * generator.standard_normal(setting.examples)
        runs = [of_system + RUN * generator.standard_normal(setting.examples) + seed for seed in seeds]
        systems.append([answer(run, kinds) for run in runs])
    if setting.seeds == 1:
        truths = [population(float(seeds[0])) for seeds in shifts]
    else:
        truths = [_mean_over_seeds(population, mean, setting.spread) for mean in (BETTER, 0.0)]
    return Trial(first=systems[0], second=systems[1], truth=truths[0] - truths[1])


def _mean_over_seeds(population: Callable[[float], float], mean: float, spread: float) -> float:
    nodes, weights = np.polynomial.hermite_e.hermegauss(30)
    values = [population(mean + spread * node) for node in nodes]
    return float(weights @ values / weights.sum())


# --- metrics: the score of a run whose examples have these strengths, and its value over all examples ----


def _accuracy(strength: Values, kinds: Values) -> Score:
    right = (strength > 0).astype(int)
    return accuracy(right.tolist(), [1] * len(right))


def _share_right(shift: float) -> float:
    return NORMAL.cdf(shift / math.sqrt(1 + SYSTEM**2 + RUN**2))


def _macro_f1(strength: Values, kinds: Values) -> Score:
    labels = (kinds < RARE).astype(int)
    right = strength - HARDER * labels > 0
    return macro_f1(np.where(right, labels, 1 - labels).tolist(), labels.tolist())


def _true_macro_f1(shift: float) -> float:
    common, rare = (1 - RARE) * _share_right(shift), RARE * _share_right(shift - HARDER)
    wrong = 1 - common - rare
    return (2 * common / (2 * common + wrong) + 2 * rare / (2 * rare + wrong)) / 2


def _perplexity(strength: Values, kinds: Values) -> Score:
    tokens = np.floor(20 + 180 * kinds)
    return perplexity((4 - strength / 4) * tokens, tokens)


def _true_perplexity(shift: float) -> float:
    return math.exp(4 - shift / 4)


METRICS: dict[str, tuple[Callable[[Values, Values], Score], Callable[[float], float]]] = {
    "accuracy": (_accuracy, _share_right),
    "macro F1": (_macro_f1, _true_macro_f1),
    "perplexity": (_perplexity, _true_perplexity),
}


# --- methods: the interval of the difference ------------------------------------------------------


def paired(scores: PairedScores, seeds: int) -> tuple[float, float]:
    """Return explora's interval."""
    found = scores.difference(range(seeds), range(seeds, 2 * seeds))
    return found.low, found.high


def unpaired(scores: PairedScores, seeds: int) -> tuple[float, float]:
    """Return the interval of one who takes the examples of the two systems for different ones."""
    apart = copy.copy(scores)
    apart.covariance = scores.covariance.copy()
    apart.covariance[:seeds, seeds:] = apart.covariance[seeds:, :seeds] = 0
    return paired(apart, seeds)


def seedless(scores: PairedScores, seeds: int) -> tuple[float, float]:
    """Return the interval of one who takes the mean of the seeds for the value of the settings."""
    weights = np.repeat([1 / seeds, -1 / seeds], seeds)
    value, error = weights @ scores.values, math.sqrt(weights @ scores.covariance @ weights)
    half = critical_value(0.95, scores.examples - 1) * error
    return float(value - half), float(value + half)


def seed_percentiles(scores: PairedScores, seeds: int, generator: np.random.Generator) -> tuple[float, float]:
    """Return the percentiles of a bootstrap over seeds and examples (whose errors are drawn as normal)."""
    noise = generator.multivariate_normal(scores.values, scores.covariance, size=2000, method="eigh")
    drawn = generator.integers(seeds, size=(2, 2000, seeds))
    first = np.take_along_axis(noise, drawn[0], axis=1).mean(axis=1)
    second = np.take_along_axis(noise, seeds + drawn[1], axis=1).mean(axis=1)
    low, high = np.quantile(first - second, [0.025, 0.975])
    return float(low), float(high)


def measure(setting: Setting, simulations: int) -> dict[str, float]:
    """Return the share of the simulations in which each method's interval holds the truth."""
    generator = np.random.default_rng(0)
    covered = dict.fromkeys(("paired", "unpaired", "seedless", "seed percentiles"), 0)
    for _ in range(simulations):
        trial = draw(setting, generator)
        scores = PairedScores([*trial.first, *trial.second], resamples=RESAMPLES)
        intervals = {
            "paired": paired(scores, setting.seeds),
            "unpaired": unpaired(scores, setting.seeds),
            "seedless": seedless(scores, setting.seeds),
            "seed percentiles": seed_percentiles(scores, setting.seeds, generator),
        }
        for name, (low, high) in intervals.items():
            covered[name] += low <= trial.truth <= high
    return {name: count / simulations for name, count in covered.items()}


def rows(simulations: int) -> Iterator[dict[str, str | float]]:
    """Yield a row for each setting."""
    for setting in SETTINGS:
        yield {**dataclasses.asdict(setting), "simulations": simulations, **measure(setting, simulations)}


def table(found: list[dict[str, str | float]], command: str) -> str:
    """Return the page: how it was measured, and a Markdown table."""
    head = ["metric", "examples", "seeds", "spread", "paired", "unpaired", "seedless", "seed percentiles"]
    error = math.sqrt(0.95 * 0.05 / float(found[0]["simulations"]))
    lines = [
        "# Coverage of the 95 % intervals of paired differences",
        "",
        f"Command: `{command}`. A share near 0.95 is right. Its standard error is {error:.3f}.",
        "",
        "`paired` is the method of explora. The other methods are wrong on purpose, for comparison:",
        "",
        "- `unpaired` ignores that both systems answered the same examples.",
        "- `seedless` ignores that other seeds give other scores.",
        "- `seed percentiles` are the percentiles of a bootstrap over seeds and examples.",
        "",
        "A seed shifts the score of a system; `spread` is the standard deviation of this shift. The better",
        "system is shifted by 0.1.",
        "",
        "One detail of `paired` was chosen by simulation: the degrees of freedom for several seeds. A first",
        "candidate covered 0.928 to 0.971 in these rows. Five candidates were then compared in 20 other",
        "settings of accuracy (300 examples, 4,000 simulations, other random numbers):",
        "",
        "| candidate | coverage |",
        "|---|---|",
        "| all five | 0.933 to 0.977 |",
        "| the chosen one | 0.940 to 0.969 |",
        "",
        "The rows below are therefore not a blind test.",
        "",
        "| " + " | ".join(head) + " |",
        "|---" * len(head) + "|",
    ]
    for row in found:
        cells = [f"{row[name]:.3f}" if name in head[4:] else str(row[name]) for name in head]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure every setting and write both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--simulations", type=int, default=1000)
    parser.add_argument("-o", "--output", type=Path, required=True, help="without .jsonl and .md")
    arguments = parser.parse_args()
    found = []
    for row in rows(arguments.simulations):
        found.append(row)
        print(json.dumps(row), flush=True)
    lines = "".join(json.dumps(row) + "\n" for row in found)
    arguments.output.with_suffix(".jsonl").write_text(lines, encoding="utf-8")
    command = f"python benchmarks/coverage.py --simulations {arguments.simulations} -o {arguments.output}"
    arguments.output.with_suffix(".md").write_text(table(found, command), encoding="utf-8")


if __name__ == "__main__":
    main()
