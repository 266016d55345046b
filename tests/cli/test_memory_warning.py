"""`explora train` looks at the memory before its first step."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from explora.core.machine import facts as measure
from explora.core.runs.record import read_record
from explora.core.training.loop import Training

WARNING = re.compile(r"warning: this run will need about (\S+ .B), and (\S+ .B) are available")


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


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")]
)
def test_running_out_of_memory_names_a_batch_size_that_needs_less(
    error: Exception, train, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(Training, "accumulate", fails)
    outcome = train("--batch-size", "8")
    assert (outcome.code, outcome.out) == (1, "")
    assert "out of memory at step 1, with batches of 8 rows of up to " in outcome.err
    found = re.search(r"--batch-size (\d+) --accumulate (\d+)( --grad-checkpoint)? --overwrite", outcome.err)
    assert found is not None and int(found[1]) * int(found[2]) == 8
    assert int(found[1]) < 8 or found[3]


def test_another_error_is_not_told_as_a_shortage(train, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Training, "accumulate", fails)
    assert train().code == 70
