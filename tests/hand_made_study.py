"""A study with scores that a test chooses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from explora.core.advice.study import Study

SHAPE = {"n_layer": 6, "n_head": 4, "n_embd": 256, "n_positions": 512, "vocab_size": 8192}
CONTENDERS: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "lora": {"method": "lora", "rank": 8, "targets": "key,value"},
    "last-linear": {"method": "last-linear"},
}
SECONDS = {"full": 100.0, "lora": 60.0, "last-linear": 20.0}  # processor seconds of a training
TOKENS = 50_000
COLUMNS = ["cell", "contender", "learning_rate", "seed", "dev", "score", "error", "forgetting", "steps"]
COLUMNS += ["tokens", "trainable", "processor_seconds"]


def trial(
    cell: str,
    contender: str,
    score: float,
    *,
    learning_rate: float = 1e-3,
    dev: float | None = None,
    seed: int = 1,
    error: float = 0.0,
) -> list[Any]:
    """A row of the study; the dev score is the score unless it is given."""
    own = [cell, contender, learning_rate, seed, score if dev is None else dev, score, error]
    return [*own, 0.0, 100, TOKENS, 1000, SECONDS[contender]]


def make_study(
    cells: Mapping[str, tuple[str, int]], trials: Iterable[list[Any]], base: str = "embedded"
) -> Study:
    """A study whose cells have a task and a number of rows; sonnets are scored by perplexity."""
    return Study.from_json(
        {
            "source": {"file": "rows.jsonl", "sha256": "0", "rows": 1},
            "bases": {base: {"digest": "0", "shape": SHAPE}},
            "contenders": CONTENDERS,
            "cells": {
                name: {
                    "task": task,
                    "data": name,
                    "base": base,
                    "examples": examples,
                    "epochs": 2,
                    "batch_size": 16,
                    "amp": "off",
                    "length": 40.0,
                    "metric": "perplexity" if task == "sonnet" else "accuracy",
                    "higher_is_better": task != "sonnet",
                    "trivial": None,
                }
                for name, (task, examples) in cells.items()
            },
            "columns": COLUMNS,
            "trials": list(trials),
        }
    )
