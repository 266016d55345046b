"""A disk that fills up while a run trains: one message, exit 1, and the saved state is resumed."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from safetensors import SafetensorError

from explora.core.files import append_line
from explora.core.runs import record
from explora.errors import WriteError


@pytest.fixture
def train(explora: Callable[..., Any], tiny_base: Path, tiny_data: Path) -> Callable[..., Any]:
    """Train three steps in the folder `run`, saving the state after each."""
    data = ["--data", str(tiny_data / "sentiment"), "--model", str(tiny_base), "--last-linear"]
    options = [*data, "--max-steps", "3", "--save-every", "1", "--device", "cpu", "--amp", "off"]

    def run(*arguments: str) -> Any:
        return explora(
            "train", "sentiment", *([] if "--resume" in arguments else options), "-o", "run", *arguments
        )

    return run


def fail_from(call: int, real: Callable[..., Any], error: Exception) -> Callable[..., Any]:
    """Return a function that does what `real` does until its call number `call`, which raises `error`."""
    calls = 0

    def sometimes(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls >= call:
            raise error
        return real(*arguments, **options)

    return sometimes


def test_a_full_disk_leaves_a_state_that_is_resumed(
    train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", fail_from(2, safetensors.torch.save_file, full))
        stopped = train()
    assert (stopped.code, stopped.out) == (1, "")
    message, hint = stopped.err.splitlines()[-2:]
    assert message == "error: run/checkpoint/b/state.safetensors cannot be written: No space left on device"
    assert hint.endswith("the state of step 1 is safe: explora train sentiment -o run --resume")
    assert train("--resume").code == 0


def test_without_a_state_the_hint_is_to_start_again(
    train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = WriteError("run/metrics.jsonl", "Input/output error")
    monkeypatch.setattr(record, "append_line", fail_from(1, append_line, gone))
    stopped = train()
    assert stopped.code == 1
    assert stopped.err.splitlines()[-2:] == [
        "error: run/metrics.jsonl cannot be written: Input/output error",
        "hint: no state was saved before: start again with --overwrite",
    ]


def test_predictions_on_a_full_disk(
    explora: Callable[..., Any], tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pairs.csv").write_text("sentence1,sentence2\na,b\n")

    def full(*_: object) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(Path, "write_bytes", full)
    arguments = ["--model", str(tiny_base), "--data", "pairs.csv", "--predictions", "out.csv"]
    stopped = explora("eval", "paraphrase", *arguments)
    assert stopped.code == 1
    assert stopped.err.splitlines()[-2:] == [
        "error: out.csv cannot be written: Disk quota exceeded",
        "hint: your disk quota is used up: delete something, or choose a folder elsewhere",
    ]
