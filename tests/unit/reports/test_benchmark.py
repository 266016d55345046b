"""A report is one file: Markdown, or a page with plots that needs nothing else."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from xml.etree import ElementTree

import pytest
from explora.commands._tables import tables_of
from explora.core.bench.report import as_html, as_markdown, check_report, write_report

from explora.core.bench.comparisons import compare_rows
from explora.core.bench.measurements import Contender
from explora.core.bench.rows import Outcome, summarise
from explora.core.bench.run import Result
from explora.core.config.run_config import TrainRun
from explora.errors import UsageError
from tests.cells_here import found, learned, right
from tests.tiny_models import make_method

SVG = "{http://www.w3.org/2000/svg}"


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
    text = as_markdown("explora bench", tables_of(given), given)
    assert "- LoRA pays off <here>." in text
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert [heading.split(":")[0].split(",")[0] for heading in headings[1:]] == [
        *("## Speed", "## Memory at its peak", "## What is learned", "## lora r=8", "## Notes"),
    ]
    assert "| lora r=8 | 110 | 100-120 | 0 | 10 | 1 |" in text
    assert 'accuracy (higher is better; * the best of its setting); the trivial answer "always yes"' in text
    assert "| lora r=8 | 0.8 [0.7391, 0.8495]* |" in text
    assert "| full | 1.00 | 0.83-1.20 | 1.00 | 0.91-1.10 | +0 [+0, +0] |" in text
    assert "explora bench" in text
    assert "last-linear: out of <memory>" in text
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) == 4
    assert all(len({line.count("|") for line in table.splitlines()}) == 1 for table in tables)


def test_without_scores_there_is_no_table_of_them():
    given = result(quality=None)
    assert not any("learned" in table.title for table in tables_of(given))
    assert as_html("explora bench", (), given).count("<svg") == 2


def test_the_parts_of_memory_are_in_the_table_and_add_up():
    given = result()
    table = tables_of(given)[1]
    assert table.header[:3] == ("method", "peak", "runtime")
    assert table.header[-1] == "rest"
    memory = given.rows[0].memory
    assert memory is not None
    assert sum(dataclasses.asdict(memory).values()) == given.rows[0].peak_memory_bytes == 1050


def test_the_page_needs_nothing_else_and_escapes_what_it_is_given():
    given = result()
    page = as_html("explora bench --data '<x>'", tables_of(given), given)
    assert "<li>LoRA pays off &lt;here&gt;.</li>" in page
    assert "<x>" not in page
    assert not re.search(r"<(script|link|img|iframe)\b", page)
    assert not re.search(r"""(src|href)=["'](?!#)""", page)
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) == 3
    said = [" ".join(ElementTree.fromstring(each).itertext()) for each in drawings]
    assert "activations" in said[0]
    assert "lora r=8" in said[0]
    assert "tokens a second" in said[1]
    assert "accuracy" in said[2]
    assert as_html("explora bench --data '<x>'", tables_of(given), given) == page


@pytest.mark.parametrize("name", ["new/report.md", "report.html"])
def test_a_report_is_written_whole_and_replaces_the_one_before(name, tmp_path):
    file, given = tmp_path / name, result()
    check_report(file)
    for _ in range(2):
        write_report(file, "explora bench", tables_of(given), given)
        check_report(file)
    assert "pays off" in file.read_text(encoding="utf-8")
    assert [each.name for each in file.parent.iterdir()] == [file.name]


def test_what_could_not_be_written_is_said_first(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"one of .md, .html"):
        check_report(tmp_path / "report.pdf")
    (tmp_path / "folder.md").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        check_report(tmp_path / "folder.md")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        check_report(tmp_path / "file" / "report.md")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(UsageError, match="cannot be written"):
        check_report(tmp_path / "report.md")


def test_plots_without_matplotlib_are_refused_with_the_command_that_helps(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name)
    )
    check_report(tmp_path / "report.md")
    with pytest.raises(UsageError, match="needs matplotlib") as caught:
        check_report(tmp_path / "report.html")
    assert "pip install 'explora[report]'" in caught.value.hint
