"""What is chosen when a trial says so, that it is kept, and who wins over it. Times are made up."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from explora.core.config.concerns import RuntimeConfig
from explora.core.model.attention import PLAIN_UP_TO
from explora.core.model.onednn import uses_onednn
from explora.core.runtime import probe as probing
from explora.core.runtime import resolve as runtime
from explora.core.runtime.precision import precision_warning
from explora.core.runtime.probe import (
    Probes,
    faster_precision,
    faster_threads,
    plain_limit,
    probe,
    probe_once,
)

FOUND = Probes(amp="bf16", threads=1, plain_bf16=256, plain_fp32=64)


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("empty")))


@pytest.mark.parametrize(("gain", "expected"), [(4.0, "bf16"), (1.3, "bf16"), (1.2, "off"), (0.02, "off")])
def test_bf16_only_where_it_gains(gain: float, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    times = {torch.float32: gain, torch.bfloat16: 1.0}
    monkeypatch.setattr(probing, "slowdown", lambda dtype: 1.0)
    monkeypatch.setattr(probing, "matmul_seconds", times.__getitem__)
    assert faster_precision() == expected


def emulate(monkeypatch: pytest.MonkeyPatch, times: float) -> None:
    """Let products other than those in fp32 take `times` as long; large ones are not tried at all."""

    def seconds(dtype: torch.dtype, size: tuple[int, int, int] = probing.PRODUCT) -> float:
        assert dtype is torch.float32 or size == probing.SMALL_PRODUCT
        return 1.0 if dtype is torch.float32 else times

    monkeypatch.setattr(probing, "matmul_seconds", seconds)


def test_an_emulated_precision_is_tried_with_a_small_product_only(monkeypatch: pytest.MonkeyPatch) -> None:
    emulate(monkeypatch, 80.0)
    tried: list[torch.dtype] = []
    monkeypatch.setattr(probing, "plain_limit", lambda dtype: tried.append(dtype) or 128)
    assert faster_precision() == "off"
    found = probe()
    assert (found.amp, found.plain_bf16, found.plain_fp32) == ("off", 0, 128)
    assert tried == [torch.float32]


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_an_emulated_precision_is_warned_about(
    amp: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    emulate(monkeypatch, 80.0)
    warning = precision_warning(RuntimeConfig(device=device, amp=amp))
    assert warning == (
        f"--amp {amp} is emulated on this CPU: matrix products take about 80 times as long as in fp32. "
        "Leave --amp out to let explora choose, or use --amp off."
    )
    recorded = precision_warning(RuntimeConfig(device=device, amp=amp), is_recorded=True)
    assert recorded is not None and "start a new run" in recorded


@pytest.mark.parametrize(
    ("options", "times"),
    [
        ({"device": "cpu", "amp": "bf16"}, 0.5),
        ({"device": "cpu", "amp": "auto"}, 80.0),
        ({"device": "cpu", "amp": "off"}, 80.0),
        ({"device": "cuda", "amp": "bf16"}, 80.0),
    ],
    ids=["not emulated", "not asked for", "fp32", "not on a CPU"],
)
def test_nothing_else_is_warned_about(
    options: dict[str, Any], times: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulate(monkeypatch, times)
    assert precision_warning(RuntimeConfig(**options)) is None


@pytest.mark.parametrize("threads", [1, 2])
def test_bf16_is_emulated_where_onednn_does_not_take_it(threads: int) -> None:
    if not uses_onednn(torch.zeros(1)) or uses_onednn(torch.zeros(1, dtype=torch.bfloat16)):
        pytest.skip("only x86 CPUs without AVX-512 are known to emulate bf16")
    torch.set_num_threads(threads)
    assert probing.is_emulated(torch.bfloat16)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("times", "expected"),
    [({2: 1.0, 4: 0.95, 8: 0.97}, 2), ({2: 1.0, 4: 0.6, 8: 0.8}, 4), ({2: 1.0, 4: 0.8, 8: 0.5}, 8)],
    ids=["hardly faster", "one a core", "one a processor"],
)
def test_other_threads_only_where_they_gain(
    times: dict[int, float], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(probing, "describe_machine", lambda: {"cores": 4, "processors": 8})
    monkeypatch.setattr(probing, "_seconds_with", times.__getitem__)
    assert faster_threads() == expected
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert faster_threads() == 2


def limit_where(plain: Callable[[int], float], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> int:
    """The limit where the fused kernel takes a second, and plain products what `plain` says of a length."""
    lengths = iter([length for length in probing.LENGTHS for _ in range(2)])
    turns = iter([True, False] * len(probing.LENGTHS))

    def seconds(work: object) -> float:
        length = next(lengths)
        return plain(length) if next(turns) else 1.0

    monkeypatch.setattr(probing, "best_seconds", seconds)
    return plain_limit(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_usual_limit_stands_where_trials_waver(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = PLAIN_UP_TO[dtype]
    for wavering in (0.85, 1.15):
        assert limit_where(lambda length, here=wavering: here, dtype, monkeypatch) == usual  # type: ignore[misc]
    assert limit_where(lambda length: 0.5, dtype, monkeypatch) == 1024
    assert limit_where(lambda length: 2.0, dtype, monkeypatch) == 0
    assert limit_where(lambda length: length / 100, dtype, monkeypatch) == 64


def test_both_kernels_that_are_tried_compute_the_same() -> None:
    projected = torch.randn(2, 5, 3 * probing.HEADS * probing.HEAD_SIZE)
    attended: list[Tensor] = [probing._plain(projected), probing._fused(projected)]
    torch.testing.assert_close(*attended)


def test_a_probe_is_made_once(own_cache: None, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Probes] = []

    def trial() -> Probes:
        tried.append(FOUND)
        return FOUND

    monkeypatch.setattr(probing, "probe", trial)
    assert [probe_once(), probe_once()] == [FOUND, FOUND]
    assert len(tried) == 1
    monkeypatch.setattr(probing, "describe_machine", lambda: {"processor": "another"})
    assert probe_once() == FOUND
    assert len(tried) == 2


def test_a_broken_file_is_made_anew(own_cache: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "probe", lambda: FOUND)
    probe_once()
    (file,) = (probing.cache_folder() / "probes").iterdir()
    for broken in ("", "{", '{"amp": "bf16"}', '{"other": 1}'):
        file.write_text(broken)
        assert probe_once() == FOUND


def test_a_cache_that_cannot_be_written_to_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(probing, "probe", lambda: FOUND)
    assert probe_once() == FOUND


def test_a_real_probe_leaves_the_threads_alone() -> None:
    before = torch.get_num_threads()
    found = probe()
    assert torch.get_num_threads() == before
    assert found.amp in ("off", "bf16") and found.threads >= 1
    assert {found.plain_bf16, found.plain_fp32} <= {0, *probing.LENGTHS}


def test_what_is_found_is_taken_and_what_is_asked_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "probe_once", lambda: FOUND)
    resolved = runtime.resolve_runtime(RuntimeConfig(device="cpu"))
    assert (resolved.amp, resolved.threads, resolved.plain_attention) == ("bf16", 1, 256)
    in_fp32 = runtime.resolve_runtime(RuntimeConfig(device="cpu", amp="off"))
    assert (in_fp32.amp, in_fp32.plain_attention) == ("off", 64)
    asked = RuntimeConfig(device="cpu", amp="off", threads=1, plain_attention=0)
    assert runtime.resolve_runtime(asked) == asked


def test_nothing_is_tried_where_all_is_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> Probes:
        raise AssertionError("probed again")

    monkeypatch.setattr(runtime, "probe_once", lambda: FOUND)
    resolved = runtime.resolve_runtime(RuntimeConfig(device="cpu"))
    monkeypatch.setattr(runtime, "probe_once", never)
    assert runtime.resolve_runtime(dataclasses.replace(resolved)) == resolved
