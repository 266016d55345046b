"""What the report of `bench` says of made-up figures."""

from __future__ import annotations

import dataclasses
import re

import pytest

from explora.core.bench.comparisons import compare_rows
from explora.core.bench.measurements import Contender
from explora.core.bench.rows import Outcome, summarise
from explora.core.bench.run import Result
from explora.core.config.run_config import TrainRun
from explora.core.reports.bench_tables import tables_of
from explora.core.reports.benchmark import bench_report
from explora.core.reports.document import Bars, Curves, Intervals
from explora.core.reports.markdown import as_markdown
from explora.core.reports.writing import write_report
from tests.cells_here import found, learned, right
from tests.tiny_models import make_method


def result(**changes: object) -> Result:
    outcomes = [
        Outcome(
            contender=Contender(run=TrainRun(task="paraphrase", method=make_method(method))),
            found=(found(100, 1000), found(120, 1100)) if method != "last-linear" else (),
            error="out of <memory>" if method == "last-linear" else None,
            learned=learned(right(160)) if method != "last-linear" else None,
        )
        for method in ("full", "lora", "last-linear")
    ]
    rows = [dataclasses.replace(row, **changes) for row in summarise(outcomes, "tiny")]
    machine = {"processor": "A & B", "cores": 2}
    return Result(
        rows=rows, comparisons=compare_rows(rows), machine=machine, verdict=["LoRA pays off <here>."]
    )


def test_markdown_has_verdict_tables_and_notes():
    given = result()
    text = as_markdown(bench_report("explora bench", given))
    assert r"- LoRA pays off \<here\>." in text
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings[1:] == [
        *("## Speed", "## Memory", "## Scores", "## Comparison", "## Notes", "## How it was made")
    ]
    assert "| lora r=8 | 110 | 100-120 | 0 | 10 | 1 |" in text
    assert r'accuracy (higher is better; \* the best of its setting); the trivial answer "always yes"' in text
    assert r"| lora r=8 | 0.8 \[0.7391, 0.8495\]\* |" in text
    assert r"| full | 1.00 | 0.83-1.20 | 1.00 | 0.91-1.10 | the same on every row |" in text
    assert "explora bench" in text
    assert r"last-linear: out of \<memory\>" in text
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) == 4 + 2 + 1  # those of the result, two curves, and the machine
    assert all(len({line.count("|") for line in table.splitlines()}) == 1 for table in tables)


def test_without_scores_there_is_no_table_of_them():
    given = result(quality=None)
    assert not any("learned" in table.title for table in tables_of(given))
    report = bench_report("explora bench", given)
    assert not any(section.heading == "Scores" for section in report.sections)


def test_the_parts_of_memory_are_in_the_table_and_add_up():
    given = result()
    table = tables_of(given)[1]
    assert table.header[:3] == ("method", "peak", "runtime")
    assert table.header[-1] == "rest"
    memory = given.rows[0].memory
    assert memory is not None
    assert sum(dataclasses.asdict(memory).values()) == given.rows[0].peak_memory_bytes == 1050


def test_bars_of_memory_end_at_the_measured_peak():
    """Parts that are counted in a later step can add up to more: `rest` is then below 0."""
    given = result()
    parts = dataclasses.replace(given.rows[0].memory, activations=800, rest=-650)
    given.rows[0] = dataclasses.replace(given.rows[0], memory=parts)
    (memory,) = [section for section in bench_report("", given).sections if section.heading == "Memory"]
    bars = memory.blocks[0]
    assert isinstance(bars, Bars)
    for bar, row in zip(bars.bars, given.rows, strict=False):
        assert bar.length * 1e6 == pytest.approx(row.peak_memory_bytes)
        assert bar.mark == pytest.approx(bar.length)
    assert sum(dataclasses.asdict(parts).values()) - parts.rest > 1050  # without the cut they exceed it


def test_scores_stand_beside_the_trivial_answer_and_the_untrained_base():
    learning = next(s for s in bench_report("", result()).sections if s.heading == "Scores")
    steps, seconds, after = learning.blocks[:3]
    assert isinstance(steps, Curves) and isinstance(seconds, Curves) and isinstance(after, Intervals)
    assert (steps.x, seconds.x) == ("steps", "seconds")
    assert [level.label for level in after.levels] == ["trivial (always yes)", "untrained base"]
    assert [item.label for item in after.items] == ["full", "lora r=8"]


def test_the_best_speed_of_each_setting_is_marked():
    given = result()
    given.rows[0] = dataclasses.replace(given.rows[0], tokens_per_second=200.0)
    speed = tables_of(given)[0]
    assert {speed.header[column] for _, column in speed.best} == {"tokens/s"}
    assert {line for line, _ in speed.best} == {0}


@pytest.mark.parametrize("name", ["new/report.md", "report.html", "report.tex"])
def test_a_report_is_written_whole_and_replaces_the_one_before(name, tmp_path):
    file = tmp_path / name
    for _ in range(2):
        write_report(file, bench_report("explora bench", result()))
    assert "pays off" in file.read_text(encoding="utf-8")
    assert [each.name for each in file.parent.iterdir()] == [file.name]
