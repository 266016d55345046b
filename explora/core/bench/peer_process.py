"""The process of a cell that does the same work with transformers and peft, without explora's model.

It works like a typical user's script: random order, padding to the longest row of each batch, language
modelling over the whole vocabulary, autocast for bf16, AdamW, clipped gradients. Adapters are on whole
modules, or transformers alone trains all weights. It needs the extra `peer`.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import peft
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from explora.core.bench.accounting import runtime_bytes, tensor_parts
from explora.core.bench.device import Clock, device_peak_bytes, matrix_peak
from explora.core.bench.measurements import WARMUP_STEPS, Measurement, MemoryParts
from explora.core.bench.protocol import answer
from explora.core.config.registry import Shape
from explora.core.config.run_config import TrainRun
from explora.core.estimate.flop import step_flop
from explora.core.machine.facts import peak_memory_bytes

AUTOCAST = {"off": torch.float32, "bf16": torch.bfloat16}
Rows = Sequence[Mapping[str, Any]]


class Peer:
    """The training loop of a user of transformers and peft."""

    def __init__(self, request: Mapping[str, Any], run: TrainRun) -> None:
        self.run, self.pad = run, request["pad"]
        self.device, self.dtype = torch.device(run.runtime.device), AUTOCAST[run.runtime.amp]
        self.model = _adapted(request["base"], run).to(self.device).train()
        self.trained = [value for value in self.model.parameters() if value.requires_grad]
        self.optimizer = torch.optim.AdamW(_groups(self.model, run), weight_decay=0.0, fused=True)
        self.clock = Clock(self.device)

    def step(self, rows: Rows) -> None:
        """Take one optimizer step on these rows."""
        enabled = self.dtype is not torch.float32
        batch = {name: value.to(self.device) for name, value in collate(rows, self.pad).items()}
        with self.clock.phase("forward"), torch.autocast(self.device.type, self.dtype, enabled=enabled):
            loss = self.model(**batch).loss
        with self.clock.phase("backward"):
            loss.backward()
        with self.clock.phase("optimizer"):
            nn.utils.clip_grad_norm_(self.trained, self.run.optimizer.clip or float("inf"))
            self.optimizer.step()
            self.optimizer.zero_grad()


def measure(request: Mapping[str, Any]) -> dict[str, Any]:
    """Train on the rows of the request (see `peer_reference`) and return the Measurement as JSON data.

    `first_loss` is the loss as explora defines it, on the first batch, in fp32 and before the first step.
    """
    baseline, run = peak_memory_bytes(), TrainRun.from_json(request["run"])
    torch.set_num_threads(run.runtime.threads or torch.get_num_threads())
    torch.manual_seed(run.training.seed)
    peer = Peer(request, run)
    first_loss = _first_loss(peer.model, request)
    for batch in request["batches"][:WARMUP_STEPS]:
        peer.step(batch)
    longest = request["batches"][0]
    peer.step(longest)  # the same as in explora's cell
    peer.clock.seconds.clear()
    rows = [row for batch in request["batches"][WARMUP_STEPS:] for row in batch]
    batches = list(shuffled(rows, run.training.batch_size, run.training.seed))
    started = time.perf_counter()
    for batch in batches:
        peer.step(batch)
    seconds, phases = time.perf_counter() - started, dict(peer.clock.seconds)
    peak = device_peak_bytes(peer.device)
    sizes = _sizes(peer)
    runtime = runtime_bytes(peer.model, [peer.optimizer])
    tensors = tensor_parts(peer.model, [peer.optimizer], peer.clock, lambda: peer.step(longest))
    tokens = sum(row["tokens"] for row in rows)
    return Measurement(
        steps=len(batches),
        examples=len(rows),
        tokens=tokens,
        seconds=seconds,
        forward=phases["forward"],
        backward=phases["backward"],
        optimizer=phases["optimizer"],
        flop=_flop(request, peer, run, rows),
        peak_memory_bytes=peak,
        baseline_memory_bytes=baseline,
        parts=MemoryParts(runtime=runtime, **tensors),
        matrix_peak=matrix_peak(peer.dtype, peer.device),
        **sizes,
        first_loss=first_loss,
        rows="",
    ).to_json()


def _sizes(peer: Peer) -> dict[str, int]:
    """Return the numbers of trained parameters and of the base's, and the size of the saved files."""
    trainable = sum(value.numel() for value in peer.trained)
    frozen = sum(value.numel() for value in peer.model.parameters()) - trainable
    base = frozen or trainable  # either the base is frozen, or all of it is trained
    return {"trainable": trainable, "total": base, "checkpoint_bytes": _saved_bytes(peer.model)}


def _flop(request: Mapping[str, Any], peer: Peer, run: TrainRun, rows: Rows) -> float:
    """Return the FLOP that the method needs for the rows, counted as in explora's own cell."""
    shape, tokens = _shape(peer.model.config), sum(row["tokens"] for row in rows)
    if request["candidates"]:  # a cloze needs two rows of the head, at one position
        return step_flop(shape, run.method, tokens, 0, answers=len(rows))
    predicted = sum(label >= 0 for row in rows for label in row["labels"])
    return step_flop(shape, run.method, tokens, predicted)


def _adapted(base: str, run: TrainRun) -> Any:
    """Load the base in fp32 with the run's dropout; peft adds the method's adapters, if there are any."""
    rate = run.training.dropout
    model = transformers.AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, resid_pdrop=rate, embd_pdrop=rate, attn_pdrop=rate
    )
    if run.runtime.grad_checkpoint:
        model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[no-untyped-call]
    config = run.method.peer_config()
    if not config:
        return model
    return peft.get_peft_model(model, peft.get_peft_config({**config, "task_type": "CAUSAL_LM"}))


def _groups(model: nn.Module, run: TrainRun) -> list[dict[str, Any]]:
    """Group the trained parameters by learning rate, as peft's optimizer for LoRA+ does."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, value in model.named_parameters():
        if value.requires_grad:
            groups.setdefault(run.method.rate_factor(name), []).append(value)
    rate = run.optimizer.learning_rate
    return [{"params": values, "lr": rate * factor} for factor, values in groups.items()]


def collate(rows: Rows, pad: int) -> dict[str, Tensor]:
    """Return input_ids, attention_mask and labels, each (B, T), padded on the right to the longest row."""
    width = max(len(row["ids"]) for row in rows)

    def padded(values: Iterator[list[int]], filler: int) -> Tensor:
        return torch.tensor([value + [filler] * (width - len(value)) for value in values])

    return {
        "input_ids": padded((row["ids"] for row in rows), pad),
        "attention_mask": padded(([1] * len(row["ids"]) for row in rows), 0),
        "labels": padded((row["labels"] for row in rows), -100),
    }


def shuffled(rows: Rows, size: int, seed: int) -> Iterator[Rows]:
    """Yield batches of the rows in random order, like an ordinary data loader."""
    order = random.Random(seed).sample(range(len(rows)), len(rows))
    for start in range(0, len(order), size):
        yield [rows[row] for row in order[start : start + size]]


@torch.no_grad()
def _first_loss(model: Any, request: Mapping[str, Any]) -> float:
    """Return explora's loss, computed by the other stack; for a cloze, over the logits of the label words.

    Untrained adapters do not change it.
    """
    rows = request["batches"][0]
    model.eval()
    batch = {name: value.to(model.device) for name, value in collate(rows, request["pad"]).items()}
    output = model(**batch)
    model.train()
    if request["candidates"] is None:
        return float(output.loss)
    last = torch.tensor([len(row["ids"]) - 2 for row in rows])  # the last token is the answer
    candidates = torch.tensor(request["candidates"])
    logits = output.logits.cpu()[torch.arange(len(rows)), last][:, candidates]
    answers = torch.tensor([request["candidates"].index(row["ids"][-1]) for row in rows])
    return float(F.cross_entropy(logits, answers))


def _saved_bytes(model: Any) -> int:
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(model, peft.PeftModel):
            model.save_pretrained(folder, save_embedding_layers=False)
        else:
            model.save_pretrained(folder)
        return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))


def _shape(config: Any) -> Shape:
    return Shape(
        n_layer=config.n_layer,
        n_head=config.n_head,
        n_embd=config.n_embd,
        n_positions=config.n_positions,
        vocab_size=config.vocab_size,
    )


if __name__ == "__main__":
    answer(measure)
