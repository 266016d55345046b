"""Processes that torchrun starts: the same gradients as alone, one writer, a restart after a kill."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from explora.core.runs.train import start_run
from tests.tiny_models import PAIRS, finish, tiny_run

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def joint_gradients(tiny_base: Path, tiny_data: Path) -> dict[str, dict[str, float]]:
    script = [str(ROOT / "tests" / "joint_gradients.py"), str(tiny_base), str(tiny_data)]
    done = subprocess.run([*TORCHRUN, *script], cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_gradients_are_those_of_one_process(joint_gradients: dict[str, dict[str, float]]) -> None:
    """In fp64, for every task and method; 4, 5 and 1 rows for two processes."""
    assert len(joint_gradients) > len(PAIRS) // 2
    for differences in joint_gradients.values():
        assert max(differences[batch] for batch in ("even", "uneven", "single")) < 1e-6


def test_a_mean_over_the_wrong_number_of_items_is_noticed(
    joint_gradients: dict[str, dict[str, float]],
) -> None:
    assert min(differences["planted"] for differences in joint_gradients.values()) > 0.1


def test_a_killed_process_is_started_again_and_the_run_is_that_of_one_process(
    tiny_base: Path, tiny_data: Path, tmp_path: Path
) -> None:
    alone = start_run(
        tiny_run(tiny_base, tiny_data, dropout=0.0, seed=5, learning_rate=1e-3), tmp_path / "alone"
    )
    _, completed = finish(alone)
    words = "train text --max-length 24 --epochs 2 --batch-size 4 --dropout 0 --seed 5 --amp off --threads 1"
    words += f" --model {tiny_base} --data {tiny_data / 'text'} -o {tmp_path / 'run'}"
    words += " --lr 1e-3 --save-every 1 --resume --json"
    command = [*TORCHRUN, "--max-restarts", "1", "-m", "explora", *words.split()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as torchrun:
        _kill_a_worker(torchrun.pid, tmp_path / "run" / "checkpoint" / "latest")
        out, err = torchrun.communicate(timeout=120)
    assert (torchrun.returncode, "resumed after step" in err) == (0, True), err
    (result,) = [json.loads(line) for line in out.splitlines()]
    assert (result["processes"], result["global_batch"]) == (2, 4)
    assert result["sent_bytes"] == 4 * result["trainable"]
    assert result["scores"]["perplexity"] == pytest.approx(
        completed.result.to_json()["scores"]["perplexity"], rel=1e-4
    )
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "alone"), rel=1e-4)


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def _kill_a_worker(torchrun: int, state: Path) -> None:
    """Kill the process that does not lead as soon as the leading one has saved a state."""
    for _ in range(6000):
        if state.exists():
            break
        time.sleep(0.01)
    for worker in psutil.Process(torchrun).children():
        if worker.environ().get("RANK") == "1":
            worker.kill()
