"""`explora train` with several values of an option: cells in folders of their own, and what befalls them.

Most tests train the cells in this process, one after the other: `one_process`. The last ones use processes.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

import explora
from explora.core.machine.facts import describe_machine
from explora.core.sweeps import run as sweep_run
from explora.core.sweeps.jobs import Order, Report
from explora.core.sweeps.processors import CAN_BIND
from explora.core.sweeps.training import train_cell

ADAPTER = "adapter_model.safetensors"


class JobsHere:
    """Trains every cell in this process."""

    def __init__(self, orders: Sequence[Order], processors: Sequence[tuple[int, ...]]) -> None:
        self.orders, self.reports = orders, list[Report]()

    def events(self) -> Iterator[Report]:
        for order in self.orders:

            def tell(event: str, name: str = order.name, **facts: Any) -> None:
                self.reports.append(Report(name=name, event=event, facts=facts))

            tell("started")
            train_cell(order.run, order.folder, tell, with_samples=order.with_samples)
            yield from self.reports
            self.reports.clear()


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_run, "Jobs", JobsHere)


@pytest.fixture
def words(tiny_base: Path, tiny_data: Path) -> list[str]:
    """A run of four steps, with dropout so that the generators count."""
    line = "train text --max-length 24 --batch-size 4 --max-steps 4 --eval-every 2 --dropout 0.1 --lr 0.01"
    machine = "--amp off --threads 1 --plain-attention 64"
    return [*line.split(), *machine.split(), "--model", str(tiny_base), "--data", str(tiny_data / "text")]


def bits(folder: Path) -> tuple[bytes, list[Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return (folder / ADAPTER).read_bytes(), [(line["step"], line.get("loss")) for line in lines]


def finished(folder: Path) -> bool:
    return bool(json.loads((folder / "run.json").read_text())["result"])


# --- what is trained, and where -------------------------------------------------------------------


@pytest.mark.usefixtures("one_process")
def test_a_cell_has_the_bits_of_the_run_alone(explora: Callable[..., Any], words: list[str]) -> None:
    outcome = explora(*words, "--lora", "2,4", "--seeds", "2")
    assert outcome.code == 0
    cells = sorted(path.name for path in Path("runs/text-sweep").iterdir() if path.is_dir())
    assert cells == ["lora-r2-s11711", "lora-r2-s11712", "lora-r4-s11711", "lora-r4-s11712"]
    explora(*words, "--lora", "4", "--seed", "11712", "-o", "alone")
    assert bits(Path("runs/text-sweep/lora-r4-s11712")) == bits(Path("alone"))
    assert bits(Path("runs/text-sweep/lora-r4-s11711")) != bits(Path("alone"))  # so the line above can fail


@pytest.mark.usefixtures("one_process")
def test_the_cells_are_ranked_and_the_choice_is_called_optimistic(
    explora: Callable[..., Any], words: list[str]
) -> None:
    outcome = explora(*words, "--lr", "1e-6,1e-2,1e-3", "-o", "out", "--report", "sweep.md")
    header, *rows = outcome.out.splitlines()
    assert header.split()[:3] == ["cell", "dev", "perplexity"]
    scores = [float(row.split()[1]) for row in rows]
    assert scores == sorted(scores) and len(scores) == 3
    assert rows[0].split()[0] == "lora-lr0.01"
    assert "the best of 3 dev scores is optimistic" in outcome.err
    floors = [json.loads(file.read_text())["result"]["floors"] for file in Path("out").glob("*/run.json")]
    floor = floors[0]["perplexity"]
    assert [row.split()[2] for row in rows] == [f"{floor:.4f}"] * 3
    assert ["(not beaten)" in row for row in rows] == [score >= floor for score in scores]
    is_in_vain = min(scores) >= floor
    assert ("no cell is better than the best trivial answer" in outcome.err) is is_in_vain
    assert "trivial: dev perplexity of the best answer without a model" in outcome.err
    assert "next: explora eval text out/*/" in outcome.err
    assert "3 of 3 cells finished" in outcome.err
    report = Path("sweep.md").read_text(encoding="utf-8")
    assert "Dev perplexity by learning rate" in report
    assert "Best step (step" in report  # of the samples of the best cell


@pytest.mark.usefixtures("one_process")
def test_settings_with_several_seeds_are_ranked_by_their_mean(
    explora: Callable[..., Any], words: list[str], check_schema: Callable[[str, Any], None]
) -> None:
    lines = [*words, "--lr", "1e-6,1e-2", "--seeds", "2"]
    *_, header, best, _ = [line.split() for line in explora(*lines).out.splitlines()]
    assert header[:2] == ["settings", "seeds"]
    *cells, summary = explora(*lines, "--json").objects
    check_schema("train-sweep-summary", summary)
    groups = summary["summary"]["over_seeds"]
    assert [group["settings"] for group in groups] == [{"learning_rate": "0.01"}, {"learning_rate": "1e-06"}]
    scores = [cell["dev_score"] for cell in cells if cell["settings"]["learning_rate"] == "0.01"]
    assert sorted(groups[0]["scores"]) == sorted(scores)
    assert best[:3] == ["lora-lr0.01", "2", f"{sum(scores) / 2:.4f}"]


@pytest.mark.usefixtures("one_process")
def test_every_cell_and_the_summary_are_json_objects(
    explora: Callable[..., Any], words: list[str], check_schema: Callable[[str, Any], None]
) -> None:
    lines = [*words, "--method", "lora,ia3", "--rank", "2,4", "--json"]
    for again in (False, True):
        *cells, summary = explora(*lines).objects
        for cell in cells:
            check_schema("train-sweep-cell", cell)
            check_schema("train", cell["result"])
        check_schema("train-sweep-summary", summary)
        assert [cell["cell"] for cell in cells] == ["lora-r2", "lora-r4", "ia3"], again
        assert cells[0]["settings"] == {"method": "lora", "rank": "2"}
        best = min(cells, key=lambda cell: cell["dev_score"])
        assert summary["summary"]["ranking"][0] == best["cell"]


@pytest.mark.usefixtures("one_process")
def test_a_failed_cell_stops_no_other_and_tells_why(explora: Callable[..., Any], words: list[str]) -> None:
    lines = [*words, "--lr", "1e30,1e-3", "-o", "out"]
    outcome = explora(*lines)
    assert outcome.code == 1
    assert "error: 1 of 2 cells did not finish: lora-lr1e+30" in outcome.err
    assert "Traceback" not in outcome.err
    failure = Path("out/lora-lr1e+30/failed.txt").read_text().splitlines()
    assert re.match(r"the (loss|norm of the gradient) is \w+ at step \d", failure[0])
    assert failure[1].startswith("hint: lower the learning rate")
    record = Path("out/lora-lr0.001/run.json")
    before = record.stat().st_mtime_ns
    assert finished(record.parent)
    again = explora(*lines)
    assert (again.code, record.stat().st_mtime_ns) == (1, before)
    assert "1 of 2 cells have finished before" in again.err


@pytest.mark.usefixtures("one_process")
def test_a_sweep_resumes_from_its_folder_alone(explora: Callable[..., Any], words: list[str]) -> None:
    assert explora(*words, "--lora", "2,4", "-o", "out", "--resume").code == 0  # as a requeued job does
    best = bits(Path("out/lora-r2"))
    for file in Path("out/lora-r2").iterdir():
        file.unlink()
    outcome = explora("train", "text", "--resume", "-o", "out")
    assert (outcome.code, bits(Path("out/lora-r2"))) == (0, best)


@pytest.mark.usefixtures("one_process")
def test_overwrite_starts_again_and_another_sweep_is_refused(
    explora: Callable[..., Any], words: list[str]
) -> None:
    assert explora(*words, "--lora", "2,4", "-o", "out").code == 0
    other = [*words, "--lora", "2,8", "-o", "out"]
    refused = explora(*other)
    assert refused.code == 2
    assert "out has another sweep: lora-r8 is not a cell of both" in refused.err
    assert explora(*other, "--overwrite").code == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["lora-r2", "lora-r8", "sweep.json"]


@pytest.mark.usefixtures("one_process")
def test_shards_are_disjoint_and_together_the_sweep(explora: Callable[..., Any], words: list[str]) -> None:
    cells = []
    for shard in ("1/2", "2/2"):
        *own, summary = explora(*words, "--lora", "2,4,8", "--shard", shard, "-o", "out", "--json").objects
        cells.append({cell["cell"] for cell in own})
        assert summary["summary"]["cells"] == len(own)
    assert cells[0].isdisjoint(cells[1])
    assert cells[0] | cells[1] == {"lora-r2", "lora-r4", "lora-r8"}


@pytest.mark.usefixtures("one_process")
def test_a_sweep_from_python(tmp_path: Path, tiny_base: Path, tiny_data: Path) -> None:
    settings = {"model": str(tiny_base), "data": str(tiny_data / "text"), "max_length": 24, "max_steps": 2}
    machine = {"amp": "off", "threads": 1, "plain_attention": 64}
    prepared = explora.sweep("text", {**settings, **machine, "rank": [2, 4]}, tmp_path / "out")
    events = [report.event for report in prepared.events()]
    assert events.count("finished") == 2
    assert {each.cell.name for each in prepared.ranked()} == {"lora-r2", "lora-r4"}


# --- before anything is trained -------------------------------------------------------------------


def test_a_dry_run_shows_the_cells_and_writes_nothing(
    explora: Callable[..., Any], words: list[str], tmp_path: Path
) -> None:
    lines = [*words, "--max-steps", "7", "--method", "lora,full", "--dry-run"]
    outcome = explora(*lines)
    assert outcome.code == 0
    cells = [line.split() for line in outcome.out.splitlines()[1:3]]
    assert [cell[:3] for cell in cells] == [["lora", "waiting", "7"], ["full", "waiting", "7"]]
    objects = explora(*lines, "--json").objects
    assert [each["steps"] for each in objects] == [7, 7]
    assert all(each["predicted_memory_bytes"] > 1e8 for each in objects)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--lora 4,x", "--lora 4,x: 'x' is not a whole number"),
        ("--warmup 0.1,", "--warmup 0.1,: '' is not a number"),
        ("--schedule linear,cosin", "schedule 'cosin' is not one of linear, cosine, constant"),
        ("--method lora,lor", "method 'lor' is not one of"),
        ("--rank 4,999", "--rank 999: rank 999 is larger than the weight matrices of this base allow"),
        ("--lora 4 --full", "--method lora,full"),
        ("--seed 1,2 --seeds 2", "--seed 1,2 and --seeds 2 both choose the seeds"),
        ("--jobs 2", "--jobs belongs to a sweep, and this is a single run"),
        ("--lora 2,4 --shard 3/2", "--shard 3/2 is not NUMBER/COUNT"),
        ("--lora 2,4 --shard 1/2 --overwrite", "--overwrite would remove the cells of other shards"),
        ("--lora 2,4 --jobs 999", "--jobs 999: this process may use"),
        ("--lora 2,4 --max-length 999,20", "the base reads at most 192 tokens"),
    ],
)
def test_what_cannot_be_is_2_and_writes_nothing(
    more: str, said: str, explora: Callable[..., Any], words: list[str], tmp_path: Path
) -> None:
    outcome = explora(*words, *more.split())
    assert (outcome.code, outcome.out) == (2, "")
    assert said in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_a_bad_data_file_is_reported_before_anything_is_trained(
    explora: Callable[..., Any], words: list[str], tmp_path: Path
) -> None:
    outcome = explora(*words, "--data", "nowhere.txt", "--lora", "2,4")
    assert outcome.code == 1
    assert "nowhere.txt" in outcome.err
    assert list(tmp_path.iterdir()) == []


# --- in processes of their own --------------------------------------------------------------------


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "explora", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, stdout=pipe, stderr=pipe, text=True)


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError("it took too long")


def steps_of(folder: Path) -> int:
    file = folder / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


@pytest.mark.skipif(describe_machine()["processors"] == 1, reason="two jobs need two processors")
def test_a_killed_cell_is_reported_and_a_stopped_sweep_goes_on_with_the_same_bits(
    tmp_path: Path, words: list[str], explora: Callable[..., Any]
) -> None:
    """Of two jobs one is killed, then the sweep is stopped; the command without --jobs ends both cells."""
    words = [*words, "--max-steps", "300", "--eval-every", "150"]
    lines = [*words, "--lora", "2,4", "-o", "out"]
    killed, stopped = tmp_path / "out" / "lora-r2", tmp_path / "out" / "lora-r4"

    process = start(tmp_path, *lines, "--jobs", "2")
    wait_for(lambda: steps_of(killed) > 3 and steps_of(stopped) > 3)
    workers = {worker.cmdline()[-1]: worker for worker in psutil.Process(process.pid).children()}
    processors = [set(worker.cpu_affinity()) for worker in workers.values() if CAN_BIND]
    workers["out/lora-r2"].send_signal(signal.SIGKILL)
    wait_for((killed / "failed.txt").is_file)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)

    if CAN_BIND:
        assert all(processors) and processors[0].isdisjoint(processors[1])
    assert process.returncode == 143, err
    assert "stopped with 2 of 2 cells left; their states are saved" in err
    assert (killed / "failed.txt").read_text().startswith("the process was killed")
    assert (stopped / "checkpoint" / "latest").is_file()

    again = explora(*lines, "--quiet")
    assert (again.code, len(again.out.splitlines())) == (0, 3), again.err
    assert not (killed / "failed.txt").exists()
    explora(*words, "--lora", "4", "-o", "alone")
    assert bits(stopped) == bits(Path("alone"))
    machines = [json.loads((cell / "run.json").read_text())["machine"] for cell in (killed, stopped)]
    assert machines == [describe_machine()] * 2
    results = [json.loads((cell / "run.json").read_text())["result"] for cell in (killed, stopped)]
    sizes = [result["peak_memory_bytes"] for result in results]
    assert max(sizes) < 1.05 * min(sizes)  # of the cell alone, whichever is trained first
