"""benchmarks/gpu/judge_base.py: what it runs, what it writes, and that nothing is measured twice."""

from __future__ import annotations

import json
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
sys.path.append(str(BENCHMARKS / "gpu"))

import judge_base  # noqa: E402

SCORES = {"bits_per_byte": 1.6, "accuracy": 0.5, "perplexity": 70.0}
ANSWER = {
    "scores": SCORES,
    "intervals": {name: [value, value] for name, value in SCORES.items()},
    "text": "!",
}


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return the commands that a judge runs; each answers at once."""
    seen: list[list[str]] = []

    def run(self: judge_base.Judge, arguments: Sequence[str]) -> str:
        seen.append(list(arguments))
        return json.dumps(ANSWER)

    monkeypatch.setattr(judge_base.Judge, "_run", run)
    return seen


def judge_all(folder: Path) -> list[dict[str, object]]:
    results = folder / "judged.jsonl"
    judge = judge_base.Judge(results, folder / "data", folder)
    judge.measure_bits("new", "BASE", folder / "held-out.txt.xz")
    for kind in judge_base.TRAININGS:
        judge.fine_tune("new", "BASE", kind, 1, None)
    return [json.loads(line) for line in results.read_text().splitlines()]


def test_each_bar_is_beside_its_score(commands: list[list[str]], tmp_path: Path) -> None:
    lines = judge_all(tmp_path)
    bars = {line["kind"]: line["bar"] for line in lines}
    assert bars == {"bits": 1.5, "sst": 0.46, "cfimdb": 0.93, "quora": 0.82, "sonnets": None}
    assert [line["value"] for line in lines] == [1.6, 0.5, 0.5, 0.5, 70.0]
    assert lines[-1]["text"] == judge_base.PROMPT + "!"


def test_the_base_is_fine_tuned(commands: list[list[str]], tmp_path: Path) -> None:
    judge_all(tmp_path)
    trained = [command for command in commands if command[0] == "train"]
    assert len(trained) == len(judge_base.TRAININGS)
    assert all(command[command.index("--model") + 1] == "BASE" for command in trained)


def test_nothing_is_measured_twice(commands: list[list[str]], tmp_path: Path) -> None:
    first = judge_all(tmp_path)
    count = len(commands)
    assert judge_all(tmp_path) == first
    assert len(commands) == count


def test_an_archive_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    with tarfile.open(tmp_path / "base.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "base", arcname="base")
    scratch = tmp_path / "scratch"
    assert (judge_base.unpacked(tmp_path / "base.tar.xz", scratch) / "config.json").exists()
    assert judge_base.unpacked(tmp_path / "base", scratch) == tmp_path / "base"
