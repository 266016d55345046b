"""On a GPU the kernels are chosen that give the same bits every time; on a CPU nothing is changed."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from explora.core.config.concerns import RuntimeConfig
from explora.core.runtime.resolve import require_determinism, resolve_for_answers, resolve_runtime

VARIABLE = "CUBLAS_WORKSPACE_CONFIG"


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.delenv(VARIABLE)
    yield
    torch.use_deterministic_algorithms(False)


def is_deterministic() -> bool:
    return torch.are_deterministic_algorithms_enabled() and VARIABLE in os.environ


@pytest.mark.parametrize("resolve", [resolve_runtime, resolve_for_answers])
def test_a_gpu_computes_deterministically(resolve: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = resolve(RuntimeConfig(device="cuda", amp="off", threads=1))  # type: ignore[operator]
    assert found.device == "cuda"
    assert is_deterministic()
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory


def test_a_step_insists_on_determinism_on_a_gpu_alone() -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    with require_determinism(torch.device("cpu")):
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    with pytest.raises(ZeroDivisionError), require_determinism(torch.device("cuda")):
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        raise ZeroDivisionError
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()


def test_a_workspace_that_the_user_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv(VARIABLE, ":16:8")
    resolve_runtime(RuntimeConfig(device="cuda", amp="off", threads=1))
    assert os.environ[VARIABLE] == ":16:8"


def test_a_cpu_is_left_as_it_is() -> None:
    resolve_runtime(RuntimeConfig(device="cpu", amp="off", threads=1, plain_attention=0))
    assert not torch.are_deterministic_algorithms_enabled()
    assert VARIABLE not in os.environ
