"""What a score must beat: TF-IDF with logistic regression, and the base before any training."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.study.data import Splits, find_base, write_splits
from benchmarks.study.plan import ALL, Data, Plan
from benchmarks.study.rows import Row, pack
from explora.core.config.concerns import DataConfig, RuntimeConfig
from explora.core.ranking.candidates import Candidate
from explora.core.ranking.scoring import Entry, Scoring, Setup
from explora.core.runtime.resolve import resolve_for_answers

CLASSIFICATION = ("paraphrase", "sentiment")
WITHOUT_ZERO_SHOT = ("sentiment",)  # a new linear head only guesses
Key = tuple[str, str, int | str | None, str | None]  # floor, data, rows, base


def measure_floors(plan: Plan, source: Path, work: Path, known: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Yield a line for each floor of each data set, size and base of the plan that is not known yet."""
    done = {(line["floor"], line["data"], line["rows"], line["base"]) for line in known}
    for stage in (plan.stage(each.name) for each in plan.stages):
        data, rows = plan.data[stage.data], stage.rows or ALL
        splits = write_splits(data, rows, source, work / "data")
        key: Key = ("tfidf", data.name, rows, None)
        if data.task in CLASSIFICATION and key not in done:
            done.add(key)
            yield _about(key) | tfidf(splits)
        key = ("untrained", data.name, None, stage.base)
        if data.task not in WITHOUT_ZERO_SHOT and key not in done:
            done.add(key)
            yield _about(key) | untrained(data, splits, find_base(stage.base, work))


def _about(key: Key) -> dict[str, Any]:
    return dict(zip(("floor", "data", "rows", "base"), key, strict=True))


def tfidf(splits: Splits) -> dict[str, Any]:
    """Train logistic regression on TF-IDF of words and word pairs; C is chosen on the choosing rows.

    For pairs of sentences, the features are those that both share and those that only one has.
    """
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    train, choose, report = (_read(file) for file in (splits.train, splits.choose, splits.report))
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    vectorizer.fit([text for row in train for text in _texts(row)])

    def features(rows: Sequence[Mapping[str, str]]) -> Any:
        from scipy.sparse import hstack

        parts = [vectorizer.transform(texts) for texts in zip(*map(_texts, rows), strict=True)]
        if len(parts) == 1:
            return parts[0]
        first, second = parts
        cosine = first.multiply(second).sum(axis=1)
        return hstack([first.multiply(second), abs(first - second), np.asarray(cosine)]).tocsr()

    labels = [[_label(row) for row in rows] for rows in (train, choose, report)]
    inputs = [features(rows) for rows in (train, choose, report)]
    fitted = [LogisticRegression(C=c, max_iter=2000).fit(inputs[0], labels[0]) for c in (0.1, 1, 10, 100)]
    best = max(fitted, key=lambda model: model.score(inputs[1], labels[1]))
    hits = best.predict(inputs[2]) == np.array(labels[2])
    bits = "".join(str(int(hit)) for hit in hits)
    return {
        "metric": "accuracy",
        "score": float(hits.mean()),
        "by_example": {"examples": len(bits), "hits": f"{int(bits, 2):x}"},
    }


def untrained(data: Data, splits: Splits, base: str) -> dict[str, Any]:
    """Score a base as it is: the zero-shot cloze, or the perplexity before training."""
    setup = Setup(
        task=data.task,
        data=DataConfig(data=str(splits.report)),
        trained_on=DataConfig(data=str(splits.train), dev=str(splits.choose)),
        split=None,
        runtime=resolve_for_answers(RuntimeConfig(threads=1)),
        encoding={},
        model=None,
        tokenizer=None,
        batch_size=32,
    )
    entry = next(Scoring(setup).run([Candidate(name=base)]))
    assert isinstance(entry, Entry) and entry.evaluation.scores is not None
    return {
        "metric": entry.metric,
        "score": entry.evaluation.scores[entry.metric],
        "scores": entry.evaluation.scores,
        "trivial": entry.evaluation.floors,
        "trivial_answers": entry.evaluation.trivial_answers,
        "by_example": pack(entry.score),
    }


def _read(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _texts(row: Mapping[str, str]) -> list[str]:
    return [text for name, text in row.items() if name != "label"]


def _label(row: Mapping[str, str]) -> int:
    return int(float(row["label"]))
