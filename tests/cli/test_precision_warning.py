"""A precision that the CPU emulates is warned about once, and only where somebody asked for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from explora.core.bench import run as benching
from explora.core.runtime import precision
from tests.cells_here import ask_here
from tests.conftest import Outcome

WARNING = (
    "warning: --amp bf16 is emulated on this CPU: matrix products take about 80 times as long as in fp32."
)


@pytest.fixture
def command(
    explora: Callable[..., Outcome], tiny_base: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Outcome]:
    """Run a command on the tiny base and its text, on a CPU that emulates bf16."""
    monkeypatch.setattr(precision, "slowdown", lambda dtype: 80.0)
    monkeypatch.setattr(benching, "ask", ask_here)
    on_tiny = {
        "train": ["text", "--data", f"{tiny_data}/text", "--model", f"{tiny_base}", "--max-length", "24"],
        "eval": ["text", str(tiny_base), "--data", f"{tiny_data}/text", "--split", "dev"],
        "generate": ["text", str(tiny_base), "--prompt", "When", "--max-new-tokens", "2"],
        "bench": ["text", "--data", f"{tiny_data}/text", "--model", f"{tiny_base}", "--methods", "full"],
    }
    few = {"train": ["--max-steps", "2"], "bench": ["--steps", "1", "--repeats", "1"]}

    def run(name: str, *options: str) -> Outcome:
        return explora(name, *on_tiny[name], *few.get(name, []), *options)

    return run


@pytest.mark.parametrize("name", ["train", "eval", "generate", "bench"])
def test_what_was_asked_for_is_warned_about_once(command: Callable[..., Outcome], name: str) -> None:
    done = command(name, "--amp", "bf16")
    assert done.code == 0, done.err
    assert done.err.count(WARNING) == 1


@pytest.mark.parametrize("name", ["train", "eval", "generate", "bench"])
@pytest.mark.parametrize("options", [(), ("--amp", "auto"), ("--amp", "off")], ids=" ".join)
def test_nothing_else_is(command: Callable[..., Outcome], name: str, options: tuple[str, ...]) -> None:
    done = command(name, *options)
    assert done.code == 0, done.err
    assert "emulated" not in done.err


def test_bench_warns_once_for_all_settings(command: Callable[..., Outcome]) -> None:
    done = command("bench", "--amp", "off,bf16", "--batch-sizes", "1,2")
    assert done.err.count("emulated") == 1
