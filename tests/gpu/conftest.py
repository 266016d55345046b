"""Tests of the product on a GPU. Where there is none, the CPU stands in for it, and the header says so.

The stand-in keeps the tests themselves in working order; what it shows about a GPU is nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from explora.core.base.model_folder import write_model
from explora.core.base.tokenizer import train_tokenizer
from explora.core.config.registry import Shape
from explora.core.config.run_config import TrainRun
from explora.core.model.gpt2 import GPT2
from explora.core.runtime.resolve import compute_deterministically

# tests.tiny_models lists the registry when it is imported: inside functions, after the toys are registered.
FOLDER = Path(__file__).parent

Prepare = Callable[..., TrainRun]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder."""
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker("gpu")


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU, set to compute as a run does, or the CPU in its place."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    compute_deterministically()  # before the first product
    return torch.device("cuda")


@pytest.fixture
def gpu(device: torch.device) -> torch.device:
    """The GPU, for what has no meaning without one."""
    if device.type != "cuda":
        pytest.skip("no GPU")
    return device


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base of three blocks and random weights, and a tokenizer."""
    from tests.tiny_models import SAMPLES, VOCABULARY, randomise

    folder = tmp_path_factory.mktemp("gpu") / "base"
    # Heads of 64, as GPT-2's: a GPU chooses its attention kernel by their size.
    shape = Shape(n_layer=3, n_head=2, n_embd=128, n_positions=192, vocab_size=VOCABULARY)
    documents = (SAMPLES / "text" / "text-train.txt").read_text(encoding="utf-8").split("\n\n")
    write_model(folder, randomise(GPT2(shape)).state_dict(), shape, train_tokenizer(documents, VOCABULARY))
    return folder


@pytest.fixture
def prepare(base: Path, tiny_data: Path, device: torch.device) -> Prepare:
    """Resolve a run on the device: `prepare("text", method="full", amp="bf16")`."""

    from tests.tiny_models import tiny_run

    def of(task: str, **options: Any) -> TrainRun:
        return tiny_run(base, tiny_data, task, **{"device": str(device), **options})

    return of
