"""benchmarks/ without its waiting: the suite file, the lines of a result, comparing and showing them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

import explora as package
from explora.cli import app
from explora.core.config.run_config import settings_of

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import compare  # noqa: E402
import plot  # noqa: E402
import results  # noqa: E402
import run  # noqa: E402
import summary  # noqa: E402
from errors import BenchmarkError  # noqa: E402
from kinds import KINDS, Found, Refused, Repeat, same_probabilities, same_texts, same_training  # noqa: E402
from prepare import Scratch  # noqa: E402
from processes import run as run_process  # noqa: E402
from processes import script  # noqa: E402
from suite import FIGURES, Cell, Target, choose, read_suite  # noqa: E402

SUITE = read_suite()
COMMANDS = typer.main.get_command(app).commands
SHARED = {"date": "2026-01-01", "commit": "abc", "versions": {"torch": "2"}, "machine": {"processor": "P"}}


def line(name="train-bf16", contender="explora", **figures: Any) -> dict[str, Any]:
    return SHARED | {"name": name, "contender": contender, "repeat": 1, "equality": "", "error": ""} | figures


def write(file: Path, *lines: dict[str, Any]) -> Path:
    results.append(file, lines)
    return file


# The suite


def test_every_cell_names_a_kind_figures_and_settings_that_exist():
    for cell in SUITE.values():
        assert cell.kind in KINDS
        assert cell.work
        assert cell.quick.keys() <= cell.settings.keys(), cell.name
        for target in cell.targets:
            assert target.figure in FIGURES
            assert target.of in ("ratio", "own")
            assert target.stretch is None or target.is_reached(target.stretch, target.reach), cell.name


def test_the_help_of_every_command_is_timed():
    timed = {tuple(cell.settings["command"]) for cell in SUITE.values() if cell.name.startswith("help")}
    shown = [name for name, command in COMMANDS.items() if not command.hidden]
    assert timed == {("--help",), *((name, "--help") for name in shown)}


@pytest.mark.parametrize("name", [name for name, cell in SUITE.items() if cell.kind == "bench"])
def test_the_bench_takes_the_arguments_of_its_cells(name):
    COMMANDS["bench"].make_context("bench", list(SUITE[name].settings["arguments"]))


@pytest.mark.parametrize("name", [name for name, cell in SUITE.items() if cell.kind == "train"])
def test_train_takes_the_arguments_of_its_cells(name, explora, tiny_base, tiny_data):
    pairs = tiny_data / "paraphrase"
    arguments = [word.format(base=tiny_base, pairs=pairs) for word in SUITE[name].settings["arguments"]]
    done = explora("train", *arguments, "--dry-run", "--json")
    assert done.code == 0, done.err
    assert SUITE[name].settings["peer"].keys() == {"method", "precision", "dropout", "batch_size"}


@pytest.mark.parametrize("name", [name for name, cell in SUITE.items() if cell.kind == "epochs"])
def test_configure_takes_the_settings_of_its_cells(name, tiny_base):
    settings = SUITE[name].settings["settings"]
    chosen = settings | {"model": str(tiny_base), "data": "here"}
    resolved = settings_of(package.configure(SUITE[name].settings["task"], chosen))
    assert resolved["epochs"] == 3
    assert {key: str(resolved[key]) for key in chosen} == {key: str(value) for key, value in chosen.items()}


def test_cells_are_chosen_by_name():
    assert [cell.name for cell in choose(SUITE, ["eval", "help"])] == ["eval", "help"]
    assert choose(SUITE, []) == list(SUITE.values())
    with pytest.raises(BenchmarkError, match="no cell evil; there are train-bf16"):
        choose(SUITE, ["evil"])


def test_less_is_better_for_memory_and_more_for_speed():
    assert Target(figure="tokens_per_second", reach=2.0).is_reached(2.1, 2.0)
    assert not Target(figure="peak_memory_bytes", reach=0.5).is_reached(0.51, 0.5)


# Running


def test_a_line_has_every_field_and_a_file_only_grows(tmp_path):
    cell = Cell(name="version", work="explora --version", kind="command", settings={"command": ["--version"]})
    shared = results.circumstances() | {"seed": 1, "quick": False}
    for _ in range(2):
        lines = run.measure(cell, 2, Scratch(tmp_path), seed=1, quick=False)
        results.append(tmp_path / "results.jsonl", [shared | line for line in lines])
    found = results.read(tmp_path / "results.jsonl")
    assert [line["repeat"] for line in found] == [1, 2, 1, 2]
    told = {"date", "commit", "versions", "machine", "seed", "quick", "busy_elsewhere"}
    told |= {"name", "contender", "repeat", "equality", "error"}
    for each in found:
        assert each.keys() == told | FIGURES.keys()
        assert 0 < each["seconds"] < 60
        assert each["peak_memory_bytes"] > 5_000_000
        assert each["tokens_per_second"] is None
        assert each["versions"]["explora"] == package.__version__


def test_a_cell_that_fails_says_so_and_is_not_repeated(tmp_path):
    cell = Cell(name="wrong", work="a mistake", kind="command", settings={"command": ["no-such-command"]})
    (only,) = run.measure(cell, 3, Scratch(tmp_path), seed=1, quick=False)
    assert "no-such-command" in only["error"]
    assert only["seconds"] is None


def test_contenders_take_turns(tmp_path):
    called = []
    for number in range(2):
        repeat = Repeat(settings={}, scratch=Scratch(tmp_path), number=number, seed=1)
        assert repeat.turns(lambda: called.append("own") or 1, lambda: called.append("peer") or 2) == (1, 2)
    assert called == ["own", "peer", "peer", "own"]


def test_the_clock_tells_the_first_output_from_the_end():
    code = "import time; print('first', flush=True); time.sleep(0.3); print('last')"
    done = run_process([sys.executable, "-c", code])
    assert done.out == "first\nlast\n"
    assert done.seconds - done.first_output_seconds > 0.25


def test_unknown_cells_are_refused_before_anything_is_made(tmp_path, capsys):
    code = run.main(["nothing", "--data-root", str(tmp_path), "--output", str(tmp_path / "out.jsonl")])
    assert code == 1
    assert "no cell nothing" in capsys.readouterr().err


# What is not the same work is not compared


def test_other_work_is_refused():
    with pytest.raises(Refused, match="starts elsewhere"):
        same_training({"tokens": 5}, {"tokens": 5, "first_loss": 0.7}, 0.6)
    with pytest.raises(Refused, match="read 4 tokens"):
        same_training({"tokens": 5}, {"tokens": 4, "first_loss": 0.6}, 0.6)
    with pytest.raises(Refused, match="differs by"):
        same_probabilities([0.5, 0.4], [0.5, 0.41], "float32")
    with pytest.raises(Refused, match="scored 1 rows"):
        same_probabilities([0.5, 0.4], [0.5], "float32")
    one, other = [{"text": "a", "tokens": 1}], [{"text": "b", "tokens": 1}]
    with pytest.raises(Refused, match="greedy texts differ"):
        same_texts(one, other, "float32")
    with pytest.raises(Refused, match="other numbers of tokens"):
        same_texts(one, [{"text": "a", "tokens": 2}], "bfloat16")
    assert same_texts(one, other, "bfloat16").startswith("bfloat16: 0 of 1")


# Comparing


def test_two_files_are_compared_where_both_have_something(tmp_path, capsys):
    before = [line(tokens_per_second=value, peak_memory_bytes=2**20) for value in (10.0, 11.0, 12.0)]
    after = [line(tokens_per_second=value, peak_memory_bytes=2**21) for value in (11.5, 13.0, 14.0)]
    a = write(tmp_path / "a.jsonl", *before, line("help", seconds=0.2), line("eval", rows_per_second=1.0))
    b = write(tmp_path / "b.jsonl", *after, line("help", seconds=0.1))
    assert compare.main([str(a), str(b)]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[2:] == [
        "| train-bf16 | explora | tokens_per_second | 11 tokens/s | 10 tokens/s to 12 tokens/s "
        "| 13 tokens/s | 11.5 tokens/s to 14 tokens/s | 1.182 | not distinguishable |",
        "| train-bf16 | explora | peak_memory_bytes | 1 MiB | 1 MiB to 1 MiB "
        "| 2 MiB | 2 MiB to 2 MiB | 2.000 | worse |",
        "| help | explora | seconds | 0.2 s | 0.2 s to 0.2 s | 0.1 s | 0.1 s to 0.1 s | 0.500 | better |",
    ]
    assert "eval explora: only in" in shown.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("\n", "is empty"),
        ('{"name": "a", "contender": "b"}\n{"name": ', "b.jsonl:2: not JSON"),
        ("[1]\n", "b.jsonl:1: not a measurement"),
        ('{"name": "other", "contender": "explora", "seconds": 1.0}\n', "no measurement in common"),
        ('{"name": "help", "contender": "explora", "seconds": "fast"}\n', "b.jsonl:1: seconds should be"),
    ],
)
def test_a_file_that_cannot_be_compared_is_named(tmp_path, capsys, text, said):
    a, b = write(tmp_path / "a.jsonl", line("help", seconds=0.2)), tmp_path / "b.jsonl"
    if text is not None:
        b.write_text(text, encoding="utf-8")
    assert compare.main([str(a), str(b)]) == 1
    message = capsys.readouterr().err
    assert said in message
    assert str(b) in message


# Showing


def measured() -> list[dict[str, Any]]:
    own = {"tokens_per_second": 900.0, "peak_memory_bytes": 30 * 2**20, "matrix_share": 0.85}
    peer = {"tokens_per_second": 200.0, "peak_memory_bytes": 100 * 2**20, "matrix_share": 0.2}
    return [
        line(**own),
        line(**own | {"tokens_per_second": 1000.0}),
        line(contender="peer", **peer),
        line("eval", error="in float32 a probability differs by 0.1"),
        line("start", seconds=0.2),
        line("start", "peer", seconds=9.0),
    ]


def test_the_table_says_what_was_reached():
    rows = [row.split(" | ")[1:] for row in summary.table(measured()).splitlines()[2:7]]
    speed = ["tokens per second", "4 x", "4.5 x", "4.75 x", "4.5 x to 5 x", "950 tokens/s", "200 tokens/s"]
    assert rows[0] == [*speed, "stretch |"]
    memory = ["peak memory bytes", "0.36 x", "0.33 x", "0.3 x", "0.3 x to 0.3 x", "30 MiB", "100 MiB"]
    assert rows[1] == [*memory, "stretch |"]
    assert rows[2][3] == "85 %"
    assert rows[3][0] == "in float32 a probability differs by 0.1"
    assert rows[4][5:7] == ["0.2 s", "9 s"]


@pytest.mark.parametrize(("value", "said"), [(3.9, "no"), (4.0, "yes"), (4.6, "stretch")])
def test_a_target_is_reached_or_not(value, said):
    assert summary.verdict(SUITE["train-bf16"].targets[0], value) == said


def test_the_plot_draws_every_ratio_that_has_a_target(tmp_path):
    pytest.importorskip("matplotlib")
    file, svg = write(tmp_path / "a.jsonl", *measured()), tmp_path / "a.svg"
    assert [bar.label for bar in plot.bars(measured())] == ["train-bf16, tokens", "train-bf16, peak"]
    assert plot.main([str(file), str(svg)]) == 0
    assert svg.read_text(encoding="utf-8").startswith("<?xml")


def test_the_scripts_say_how_they_are_called():
    for name in ("run.py", "compare.py", "plot.py", "summary.py", "prepare.py"):
        assert "usage:" in run_process(script(name, "--help")).out


def test_a_line_of_a_contender_has_all_figures():
    made = run.line_of(SUITE["eval"], 0, Found(contender="peer", figures={"seconds": 1.0}))
    assert made["seconds"] == 1.0
    assert json.loads(json.dumps(made)) == made
