"""A base so small that a whole training takes a fraction of a second, and files for each task to train on."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from explora.core.base.model_folder import write_model
from explora.core.base.tokenizer import train_tokenizer
from explora.core.config.concerns import DataConfig
from explora.core.config.method import Method
from explora.core.config.precedence import resolve
from explora.core.config.registry import METHODS, TASKS, Shape, method_class
from explora.core.config.run_config import TrainRun, field_names
from explora.core.data.splits import find_split
from explora.core.model.gpt2 import GPT2
from explora.core.runs.events import Completed
from explora.core.runs.running import Running
from explora.core.training.events import Event

SAMPLES = Path(__file__).parents[1] / "explora" / "assets" / "samples"
VOCABULARY = 320
SHAPE = Shape(n_layer=2, n_head=2, n_embd=32, n_positions=192, vocab_size=VOCABULARY)

# Every combination of a task and a method that the registry allows.
ALLOWED = [
    (task, method)
    for task, row in TASKS.items()
    for method in METHODS
    if not row.refuses(method_class(method))
]
# Trainings take time: lora, full and last-linear meet every task, the other methods and the toys two each.
FEW = {
    "entailment": ("lora", "norm-tuning"),
    "norm-tuning": ("entailment", "sentiment"),
    "ia3": ("paraphrase", "sonnet"),
    "dora": ("sentiment", "sonnet"),
    "bitfit": ("sentiment", "text"),
    "miss": ("paraphrase", "text"),
    "top": ("paraphrase", "sonnet"),
    "rslora": ("paraphrase", "text"),
    "lora-plus": ("sentiment", "text"),
}
PAIRS = [
    (task, method)
    for task, method in ALLOWED
    if method in FEW.get(task, METHODS) and task in FEW.get(method, TASKS)
]


def make_method(name: str, **settings: Any) -> Method:
    """A method with those of the settings that it has."""
    kind = method_class(name)
    return kind(**{key: value for key, value in settings.items() if key in field_names(kind)})


def randomise(model: GPT2, seed: int = 0, scale: float = 1.0) -> GPT2:
    """Fill a model with weights that make every part of it count: no small deviation, no zero bias."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.empty_like(value).normal_(generator=generator)
            if name in ("wte.weight", "wpe.weight"):
                value.copy_(0.05 * noise)
            elif value.dim() == 1:
                value.copy_(0.1 * noise + (1.0 if "ln_" in name and name.endswith("weight") else 0.0))
            else:
                value.copy_(scale * noise / value.shape[0] ** 0.5)
    return model


def write_tiny_base(folder: Path) -> None:
    """Write a base with random weights and a tokenizer of 320 tokens trained on the sample text."""
    documents = (SAMPLES / "text" / "text-train.txt").read_text(encoding="utf-8").split("\n\n")
    tokenizer = train_tokenizer(documents, VOCABULARY)
    write_model(folder, randomise(GPT2(SHAPE)).state_dict(), SHAPE, tokenizer)


def write_tiny_data(folder: Path) -> None:
    """Write TASK/train.EXT and TASK/dev.EXT: a few of each task's sample rows, short ones."""
    for task in TASKS:
        for split, count in (("train", 22), ("dev", 5)):
            source = Path(find_split(task, DataConfig(), split).file)
            target = folder / task / f"{split}{source.suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            text = source.read_text(encoding="utf-8")
            target.write_text(_shortened(text, task, count), encoding="utf-8")


def _shortened(text: str, task: str, count: int) -> str:
    if task == "text":
        return text[: 40 * count]
    if task == "sonnet":
        return text[: 370 * count]
    header, *rows = text.splitlines(keepends=True)
    return header + "".join(sorted(rows, key=len)[: 2 * count : 2])


@cache
def tiny_run(base: Path, data: Path, task: str = "text", **options: Any) -> TrainRun:
    """Resolve a run of 5 or 6 steps an epoch, in fp32 on one thread."""
    chosen: dict[str, Any] = {
        "model": str(base),
        "data": str(data / task),
        "max_length": {"text": 24, "sonnet": 160}.get(task, 96),
        "epochs": 2,
        "batch_size": 4,
        "device": "cpu",
        "amp": "off",
        "threads": 1,
    }
    return resolve(task, chosen | options)[0]


def finish(running: Running) -> tuple[list[Event], Completed]:
    """Train to the end; returns the events and the result."""
    *events, completed = running.events()
    assert isinstance(completed, Completed)
    return [event for event in events if not isinstance(event, Completed)], completed


def until_step(running: Running, step: int) -> Iterator[Event | Completed]:
    """Yield events up to and with the StepDone of a step."""
    for event in running.events():
        yield event
        if running.training.progress.step == step:
            return


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of every parameter's numbers, of packed weights too."""
    return {
        name: (value.to_dense() if value.is_mkldnn else value).detach().clone()
        for name, value in model.named_parameters()
    }
