"""Peak memory of a training: closed forms, without torch.

The tensors of a step are added up at every moment that may be the peak: at the loss, at both halves of each
block in the backward pass, and at the embeddings. The peak is the largest sum, and its parts are those of
that moment. Reading the weights needs less, because the largest come first and each is cast alone. Comparison
with measurements: benchmarks/results/memory.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from math import prod

from explora.core.config.registry import TASKS, Shape
from explora.core.config.run_config import TrainRun
from explora.core.estimate.activations import Half, Work, attention, feed_forward, frozen_forward
from explora.core.estimate.parameters import (
    FLOAT32_BYTES,
    base_tensors,
    trained_shapes,
)

# Python, torch, and the libraries that torch loads at the first step: measured with torch 2.13 on Linux.
RUNTIME_BYTES = 310 << 20
GPU = "cuda"
NUMBER_BYTES = {"off": 4, "bf16": 2, "fp16": 2}
# Freed memory that the allocator cannot reuse, as a share of the tensors that autograd keeps, and of a
# recomputed block. Fitted to the cells of benchmarks/memory.py, in processes with the TUNABLES of malloc.py.
FRAGMENTS_BESIDE_KEPT, FRAGMENTS_OF_RECOMPUTED = 0.1, 1.5
LOGITS_AT_ONCE, LOGITS_AT_ONCE_ON_GPU, FEWEST_ROWS = 1 << 22, 1 << 26, 128  # the values of cross_entropy.py
# On a GPU, torch counts only its tensors and the workspace of cuBLAS, :4096:8 as in resolve.py.
GPU_RUNTIME_BYTES = 8 * 4096 << 10


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes by part at the moment of the peak."""

    runtime: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    temporaries: int
    fragmentation: int

    @property
    def peak(self) -> int:
        """The sum of all parts."""
        return sum(getattr(self, item.name) for item in fields(self))


@dataclass(frozen=True, kw_only=True)
class _Moment:
    """The parts that change during a step."""

    gradients: int = 0
    activations: int = 0
    temporaries: int = 0

    @property
    def size(self) -> int:
        return self.gradients + self.activations + self.temporaries


def predict(
    run: TrainRun,
    shape: Shape,
    length: int,
    *,
    classes: int | None = None,
    runtime: int | None = None,
    evaluates: bool = True,
) -> Memory:
    """Predict the peak memory of a run, its amp and device resolved, on rows of `length` tokens.

    On a CPU it is the memory of the process, on a GPU that of torch's tensors there. `shape` is the base's.
    `classes` is the number of classes in the data (default: the task's). `runtime` is the memory of Python
    and torch, if it has been measured. `evaluates`: dev rows are read, too, in batches of twice the size.
    """
    head = TASKS[run.task].head_classes(run.method.needs_head, classes)
    step = _Step(run, shape, length, head, 2 if evaluates else 1)
    most = max(step.moments(), key=lambda moment: moment.size)
    usual = GPU_RUNTIME_BYTES if step.work.on_gpu else RUNTIME_BYTES
    return Memory(
        runtime=usual if runtime is None else runtime,
        weights=step.weights(),
        gradients=most.gradients,
        optimizer=step.optimizer(),
        activations=most.activations,
        temporaries=most.temporaries,
        fragmentation=step.fragmentation(),
    )


class _Step:
    """The forward and backward pass of one micro-batch of a run."""

    def __init__(self, run: TrainRun, shape: Shape, length: int, head: int, read_at_once: int) -> None:
        self.run, self.shape, self.head = run, shape, head
        self.work = Work(
            shape=shape,
            method=run.method,
            batch_size=run.training.batch_size,
            length=length,
            number=NUMBER_BYTES[run.runtime.amp],
            dropout=run.training.dropout,
            one_position=TASKS[run.task].one_position,
            checkpointed=run.runtime.grad_checkpoint,
            plain_up_to=run.runtime.plain_attention,
            on_gpu=run.runtime.device.startswith(GPU),
        )
        self.trained = trained_shapes(shape, run.method, head)
        self.embedding = shape.vocab_size * shape.n_embd
        self.blocks = _blocks(self.work)
        # The forward passes without gradients: of frozen blocks, and of evaluation with its larger batches.
        many = replace(self.work, batch_size=read_at_once * self.work.batch_size)
        reads = read_at_once > 1 or run.method.first_trained_block(shape) > 0
        self.reading = frozen_forward(many) if reads else 0

    def weights(self) -> int:
        """Return the bytes of frozen weights, their second copies (GPT2.pack), and trained ones."""
        frozen = {name: size for name, size in base_tensors(self.shape).items() if name not in self.trained}
        packs = self.run.runtime.amp == "bf16" and not self.work.on_gpu
        twice = packs and not self.run.runtime.grad_checkpoint
        copied = {
            name: size
            for name, size in frozen.items()
            if twice and len(size) == 2 and _layer(name) >= 0 and self.blocks[_layer(name)][1].passes
        }
        return self.work.number * (_size(frozen) + _size(copied)) + FLOAT32_BYTES * _size(self.trained)

    def optimizer(self) -> int:
        """Return the bytes of AdamW's two moments, or Muon's one for the matrices of the blocks."""
        moments = 0
        for name, size in self.trained.items():
            by_muon = self.run.optimizer.optimizer == "muon" and name.startswith("h.") and len(size) == 2
            moments += prod(size) * (1 if by_muon else 2)
        return FLOAT32_BYTES * moments

    def moments(self) -> Iterator[_Moment]:
        """Yield the tensors at each moment that may be the peak."""
        yield _Moment(temporaries=self.reading)
        yield self._at_loss()
        yield from self._backward()
        if self.work.is_full:
            yield self._at_embeddings()

    def fragmentation(self) -> int:
        """Return the freed bytes that glibc's allocator cannot reuse; 0 on a GPU with its own allocator."""
        if self.work.on_gpu:
            return 0
        passed = [block for block in self.blocks if block[1].passes]
        if self.run.runtime.grad_checkpoint:
            again = max((sum(half.size + half.backward for half in block) for block in passed), default=0)
            return round(min(FRAGMENTS_OF_RECOMPUTED, len(passed) - 1) * again)  # the first block leaves none
        return round(FRAGMENTS_BESIDE_KEPT * sum(half.in_heap for block in passed for half in block))

    @property
    def _answers(self) -> int:
        """The number of positions that the task uses."""
        return self.work.batch_size if self.work.one_position else self.work.tokens

    def _at_loss(self) -> _Moment:
        """Return the moment of the loss: the answers' states; for text also gradients and logits."""
        number, vocabulary = self.work.number, self.shape.vocab_size
        answers = self._answers * self.shape.n_embd * number
        kept = self._kept(self.shape.n_layer) + answers
        if self.work.one_position:
            return self._moment(kept, answers, above=self.shape.n_layer)
        half = number if number < FLOAT32_BYTES else 0
        at_once = LOGITS_AT_ONCE_ON_GPU if self.work.on_gpu else LOGITS_AT_ONCE
        rows = min(self._answers, max(FEWEST_ROWS, at_once // vocabulary))
        # Logits and probabilities in fp32; from the second chunk on also the rest of the previous chunk.
        numbers = 2 * FLOAT32_BYTES + (FLOAT32_BYTES + half if rows < self._answers else 0)
        logits = rows * vocabulary * numbers
        weight = self.embedding * (number + half) if self.work.is_full else 0
        return self._moment(kept, 3 * answers + logits + weight, above=self.shape.n_layer)

    def _kept(self, layers: int) -> int:
        """Return the bytes that autograd keeps of the first blocks; with checkpointing only their inputs."""
        if self.run.runtime.grad_checkpoint:
            return self.work.states * sum(second.passes for _, second in self.blocks[:layers])
        return sum(half.size for block in self.blocks[:layers] for half in block)

    def _backward(self) -> Iterator[_Moment]:
        """Yield the halves of the blocks from the last one down, in the backward pass.

        With checkpointing, the tensors of a block, except its input, are recomputed and count as temporaries.
        """
        for layer in reversed(range(self.shape.n_layer)):
            first, second = self.blocks[layer]
            for half, size in ((second, first.size + second.size), (first, first.size)):
                if not half.passes:
                    continue
                if self.run.runtime.grad_checkpoint:
                    again = max(0, size - self.work.states) + half.backward
                    yield self._moment(self._kept(layer + 1), again, above=layer + 1)
                else:
                    yield self._moment(self._kept(layer) + size, half.backward, above=layer + 1)

    def _at_embeddings(self) -> _Moment:
        """Return the moment with all gradients, and that of the lookup beside that of the whole tied head."""
        numbers = self.embedding + self.work.tokens * self.shape.n_embd
        return self._moment(0, FLOAT32_BYTES * numbers + self.work.states, above=0)

    def _moment(self, activations: int, temporaries: int, *, above: int) -> _Moment:
        """Add the gradients of the blocks from `above` on, and the tied head's, which exists until the end.

        If the head is used in a few rows only, its gradient is as small as these rows.
        """
        blocks = sum(prod(size) for name, size in self.trained.items() if _layer(name) >= above)
        if self.run.training.accumulate > 1:
            blocks = _size(self.trained)
        tied = self.work.is_full and not self.work.one_position
        return _Moment(
            gradients=FLOAT32_BYTES * blocks,
            activations=activations,
            temporaries=temporaries + (FLOAT32_BYTES * self.embedding if tied else 0),
        )


def _blocks(work: Work) -> list[tuple[Half, Half]]:
    blocks: list[tuple[Half, Half]] = []
    passes = work.is_full
    for layer in range(work.shape.n_layer):
        first = attention(work, layer, passes)
        second = feed_forward(work, layer, first.passes)
        blocks.append((first, second))
        passes = second.passes
    return blocks


def _layer(name: str) -> int:
    """Return the block of a tensor, -1 for a tensor outside of blocks."""
    return int(name.split(".")[1]) if name.startswith("h.") else -1


def _size(tensors: Mapping[str, tuple[int, ...]]) -> int:
    return sum(prod(size) for size in tensors.values())
