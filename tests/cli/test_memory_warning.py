"""`explora train` looks at the memory before its first step."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from explora.core.machine import facts as measure
from explora.core.runs.record import read_record

WARNING = re.compile(r"warning: this run will need about (\S+ .B) and can have (\S+ .B)")


@pytest.fixture
def train(explora, tiny_base: Path, tiny_data: Path):
    def run(*options: str):
        given = ["--model", str(tiny_base), "--data", str(tiny_data / "paraphrase"), "--max-length", "96"]
        return explora("train", "paraphrase", *given, "--max-steps", "2", "--amp", "off", "--json", *options)

    return run


def test_enough_is_not_worth_a_word(train) -> None:
    assert "this run will need" not in train().err


def test_too_little_is_told_and_refuses_nothing(train, monkeypatch: pytest.MonkeyPatch) -> None:
    before = train("-o", "before").objects[0]
    monkeypatch.setattr(measure, "available_memory_bytes", lambda: 0)
    done = train("-o", "after", "--quiet")
    assert done.code == 0
    assert WARNING.search(done.err)
    assert re.search(r"; (this fits: --batch-size \d+ --accumulate \d+|nothing smaller fits)", done.err)
    assert done.objects[0]["scores"] == before["scores"]
    records = [read_record(Path(name)) for name in ("before", "after")]
    assert records[0] is not None and records[1] is not None
    assert records[0].run == records[1].run
