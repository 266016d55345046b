"""`explora bench`: real processes, the table, the JSON, what fails, what is refused, Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from explora.core.bench import run as running
from tests.cells_here import ask_here

QUICK = ("--batch-size", "4", "--amp", "off", "--threads", "1", "--device", "cpu")
TOO_LARGE = "1000000000000000"  # a rank that no memory holds


@pytest.fixture
def on_tiny(tiny_base, tiny_data) -> tuple[str, ...]:
    return ("--model", str(tiny_base), "--data", str(tiny_data / "paraphrase"), *QUICK)


@pytest.fixture
def in_process(monkeypatch):
    monkeypatch.setattr(running, "ask", ask_here)


def test_each_cell_has_a_process_and_one_that_fails_is_a_row(explora, on_tiny, check_schema):
    chosen = ("--methods", "full,lora", "--ranks", f"2,{TOO_LARGE}", "--repeats", "1", "--steps", "2")
    ballast = b"." * 1_000_000_000  # ours, and not to be found in any cell
    done = explora("bench", *on_tiny, *chosen, "--json")
    assert done.code == 0
    (value,) = done.objects
    check_schema("bench", value)
    full, lora, failed = value["rows"]
    assert (full["method"], lora["method"], lora["rank"]) == ("full", "lora", 2)
    assert lora["trainable"] < full["trainable"] == full["total"]
    assert lora["checkpoint_bytes"] < full["checkpoint_bytes"]
    for row in (full, lora):
        assert row["tokens_per_second"] > row["examples_per_second"] > 0
        assert 0 < row["baseline_memory_bytes"] < row["peak_memory_bytes"]
        assert 0 < row["matrix_share"] < 1
        assert row["spread"]["tokens_per_second"] == [pytest.approx(row["tokens_per_second"], abs=1e-2)] * 2
    assert full["first_loss"] == lora["first_loss"]
    assert failed["error"].startswith("out of memory")
    assert failed["tokens_per_second"] is None
    assert f"warning: lora r={TOO_LARGE}: out of memory" in done.err
    assert value["verdict"].startswith("No verdict: one repeat shows no spread")
    assert [(each["name"], each["other"]) for each in value["comparisons"]] == [("lora r=2", "full")]
    assert lora["peak_memory_bytes"] < len(ballast) < psutil.Process().memory_info().rss


def test_the_table_has_a_line_for_each_contender_and_a_verdict(explora, on_tiny, in_process):
    done = explora("bench", *on_tiny, "--repeats", "2", "--steps", "2")
    assert done.code == 0
    lines = done.out.splitlines()
    names = ["full", "last-linear", "lora r=4", "lora r=8", "lora r=16"]
    assert lines[1].split()[:2] == ["method", "tokens/s"]
    assert [line.split("  ")[0] for line in lines[2:7]] == names
    assert any("lora r=8 is" in line for line in lines[7:])
    assert "bench 10/10" in done.err


def test_what_a_task_refuses_is_left_out_and_said(explora, tiny_base, tiny_data, in_process):
    model = ("--model", str(tiny_base), "--data", str(tiny_data / "sonnet"), *QUICK)
    done = explora(
        "bench", "sonnet", *model, "--ranks", "2", "--repeats", "1", "--steps", "1", "--length", "40"
    )
    assert done.code == 0
    assert "last-linear is left out: a sonnet" in done.err
    assert [line.split("  ")[0] for line in done.out.splitlines()[2:4]] == ["full", "lora r=2"]
    refused = explora("bench", "sonnet", *model, "--methods", "last-linear")
    assert refused.code == 2
    assert "none of last-linear" in refused.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--methods ful", "did you mean full?"),
        ("--methods full,full", "none twice"),
        ("--ranks 4,0", "not a positive whole number"),
        ("--ranks x", "not a positive whole number"),
        ("--ranks ,", "at least one"),
        ("--ranks 4 --methods full,ia3", "none of the --methods takes --ranks"),
        ("--steps 0", "--steps"),
        ("--length 10000", "reads at most 192 tokens"),
        ("--lengths 64,7", "not a whole number from 8 on"),
        ("--batch-sizes 4,4", "none twice"),
        ("--amp off,bf61", "did you mean bf16?"),
        ("--amp auto,off", "cannot be combined"),
        ("--grad-checkpoint yes", "not one of on, off"),
        ("--batch-sizes 1,2,3,4 --repeats 99", "cells"),
        ("--lengths 64 --quality", "nothing can be learned"),
        ("--report bench.pdf", "one of .html, .md, .tex"),
        ("--methods full,top --blocks 99", "--blocks 99: the base has 2 blocks"),
        ("--methods last-linear --peer", "any of these methods"),
    ],
)
def test_usage_errors(explora, on_tiny, arguments, message):
    done = explora("bench", *on_tiny, *arguments.split())
    assert done.code == 2
    assert message in done.err
    assert done.out == ""


def test_a_matrix_has_columns_for_what_differs_and_a_report(explora, on_tiny, in_process, tmp_path):
    chosen = ("--methods", "full,lora", "--ranks", "2", "--repeats", "1", "--steps", "1")
    settings = ("--batch-sizes", "2,3", "--grad-checkpoint", "on,off")
    done = explora("bench", *on_tiny, *chosen, *settings, "--report", "report.md")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[1].split()[:4] == ["method", "batch", "checkpointing", "tokens/s"]
    cells = [line.split()[:3] if line.startswith("full") else line.split()[1:4] for line in lines[2:10]]
    settings_shown = [cell[1:] for cell in cells[::2]]
    assert settings_shown == [["2", "on"], ["2", "off"], ["3", "on"], ["3", "off"]]
    assert "batch 2, length as it is, precision fp32, checkpointing on" in done.err
    assert done.out.count("With batch") == 4
    written = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| method | batch | checkpointing | tokens/s |" in written
    assert "wrote report.md" in done.err


def test_what_is_learned_is_in_table_and_json(explora, on_tiny, in_process, check_schema):
    chosen = ("--methods", "full,lora", "--ranks", "2", "--repeats", "1", "--steps", "1")
    quality = ("--quality-steps", "2")
    done = explora("bench", *on_tiny, *chosen, *quality, "--json", "--report", "r.html")
    assert done.code == 0
    (value,) = done.objects
    check_schema("bench", value)
    assert [row["quality"]["equal_steps"]["steps"] for row in value["rows"]] == [2, 2]
    assert all(sum(row["memory"].values()) == row["peak_memory_bytes"] for row in value["rows"])
    assert "2 trainings, about 0:" in done.err
    assert "learn 2/2" in done.err
    assert Path("r.html").read_text(encoding="utf-8").count("<svg") == 5


def test_underscores_and_quiet(explora, on_tiny, in_process):
    done = explora("bench", *on_tiny, "--methods", "last_linear", "--repeats", "1", "--steps", "1", "--quiet")
    assert done.code == 0
    assert done.err == ""
    assert "No verdict on last-linear: full fine-tuning was not measured" in done.out


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_an_interrupt_ends_the_cell_s_process(number, code, on_tiny, tmp_path):
    command = [sys.executable, "-m", "explora", "bench", *on_tiny, "--steps", "1000000"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as bench:
        child = _first_child(psutil.Process(bench.pid))
        bench.send_signal(number)
        _, err = bench.communicate(timeout=30)
    assert bench.returncode == code
    assert "Traceback" not in err
    assert _ends(child)


def _ends(process: psutil.Process) -> bool:
    """Whether it is gone, or a zombie that nobody has collected yet, within ten seconds."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.01)
                continue
        return True
    return False


def _first_child(parent: psutil.Process) -> psutil.Process:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        for child in parent.children():
            if "explora.core.bench.cell_process" in child.cmdline():
                return child
        time.sleep(0.05)
    raise AssertionError(f"no cell was started by {Path(parent.cmdline()[0]).name}")
