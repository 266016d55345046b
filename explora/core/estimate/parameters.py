"""How many numbers a base holds, a method trains and a file stores: closed forms, without torch.

Names are those of Hugging Face's GPT-2. A part sums one module over all blocks: `attn.c_attn`, `ln_1`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from explora.core.config.registry import TARGETS, Shape
from explora.core.config.run_config import MethodConfig
from explora.errors import UsageError

Tensors = dict[str, tuple[int, ...]]

FLOAT32_BYTES = 4
HEADER_ALIGNMENT = 8
HEAD = "score"


@dataclass(frozen=True, kw_only=True)
class Part:
    """One kind of module: how many base parameters it has, and how many a method trains there."""

    total: int
    trainable: int


@dataclass(frozen=True, kw_only=True)
class Count:
    """What a method trains on a base, by part, and the size of the file that keeps it."""

    parts: dict[str, Part]
    adapter_bytes: int

    @property
    def total(self) -> int:
        """Parameters of the base; the tied head counts once, a task's own head not at all."""
        return sum(part.total for part in self.parts.values())

    @property
    def trainable(self) -> int:
        """Parameters that the method trains, a task's own head included."""
        return sum(part.trainable for part in self.parts.values())

    @property
    def share(self) -> float:
        """`trainable` as a fraction of `total`."""
        return self.trainable / self.total


def count(shape: Shape, method: MethodConfig, classes: int = 0, header: str = "") -> Count:
    """Count for a base of this shape; `classes` is the width of the task's linear head, 0 for none.

    `header` is what an adapter says of itself (`adapters.Header.to_json`); it is part of the file. Raises
    UsageError for `layers` that the base does not have.
    """
    held = _by_part(base_tensors(shape))
    trained = _by_part(trained_tensors(shape, method, classes))
    names = dict.fromkeys([*held, *trained])
    metadata = {"format": "pt"} if method.method == "full" else {"explora": header}
    return Count(
        parts={name: Part(total=held[name], trainable=trained[name]) for name in names},
        adapter_bytes=file_bytes(file_tensors(shape, method, classes), metadata),
    )


def check_rank(shape: Shape, method: MethodConfig) -> None:
    """Raise UsageError for an adapter of more rank than the matrix beside it has."""
    if method.method == "lora" and method.rank > shape.n_embd:
        raise UsageError(
            f"rank {method.rank} is more than the matrices of this base have",
            f"--lora takes ranks up to the width, {shape.n_embd}; 4 to 16 are usual",
        )


def base_tensors(shape: Shape) -> Tensors:
    """The shapes of all weights by name, as in transformers' GPT2Model: matrices of a block are (in, out)."""
    width = shape.n_embd
    tensors: Tensors = {"wte.weight": (shape.vocab_size, width), "wpe.weight": (shape.n_positions, width)}
    modules = {
        f"h.{layer}.{module}": size
        for layer in range(shape.n_layer)
        for module, size in block_modules(width).items()
    }
    for module, size in (modules | {"ln_f": (width,)}).items():
        tensors |= {f"{module}.weight": size, f"{module}.bias": size[-1:]}
    return tensors


def file_tensors(shape: Shape, method: MethodConfig, classes: int = 0) -> Tensors:
    """The shapes of the tensors that a run keeps, by the names in its file.

    A full fine-tune is a transformers model. Anything else has PEFT's names; separate adapters on the
    parts of `c_attn` are stored as one on all of it, with zeros in B for the other parts.
    """
    if method.method == "full":
        model = {f"transformer.{name}": size for name, size in base_tensors(shape).items()}
        return model | _head_tensor(shape, classes)
    tensors = _head_tensor(shape, classes)
    if method.method == "lora":
        adapters = Counter(TARGETS[target][0] for target in method.targets)
        for layer in _adapted_blocks(shape, method):
            for module, number in adapters.items():
                fan_in, fan_out = block_modules(shape.n_embd)[module]
                rank = number * method.rank
                tensors[f"transformer.h.{layer}.{module}.lora_A.weight"] = (rank, fan_in)
                tensors[f"transformer.h.{layer}.{module}.lora_B.weight"] = (fan_out, rank)
    return {f"base_model.model.{name}": size for name, size in tensors.items()}


def file_bytes(tensors: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> int:
    """The size of a safetensors file of these fp32 tensors.

    The format: 8 bytes for the header's length, the header, the numbers. The header is compact JSON of
    metadata and tensors, padded with spaces.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name in sorted(tensors):
        start, end = end, end + FLOAT32_BYTES * prod(tensors[name])
        header[name] = {"dtype": "F32", "shape": list(tensors[name]), "data_offsets": [start, end]}
    length = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    padding = -length % HEADER_ALIGNMENT
    return 8 + length + padding + end


def block_modules(width: int) -> Tensors:
    """The shapes of the weights of one block, in the order in which it computes."""
    return {
        "ln_1": (width,),
        "attn.c_attn": (width, 3 * width),
        "attn.c_proj": (width, width),
        "ln_2": (width,),
        "mlp.c_fc": (width, 4 * width),
        "mlp.c_proj": (4 * width, width),
    }


def trained_tensors(shape: Shape, method: MethodConfig, classes: int) -> Tensors:
    """The shapes of what receives gradients; A and B of an adapter side by side, named by its target."""
    head = _head_tensor(shape, classes)
    if method.method == "full":
        return base_tensors(shape) | head
    if method.method == "last-linear":
        return head
    tensors: Tensors = {}
    for target in method.targets:
        module, part = TARGETS[target]
        fan_in, fan_out = block_modules(shape.n_embd)[module]
        span = fan_out if part is None else fan_out // 3
        for layer in _adapted_blocks(shape, method):
            tensors[f"h.{layer}.{module}.{target}"] = (method.rank, fan_in + span)
    return tensors | head


def _head_tensor(shape: Shape, classes: int) -> Tensors:
    return {f"{HEAD}.weight": (classes, shape.n_embd)} if classes else {}


def _adapted_blocks(shape: Shape, method: MethodConfig) -> range:
    first, last = method.layers or (0, shape.n_layer - 1)
    if not 0 <= first <= last < shape.n_layer:
        raise UsageError(
            f"no blocks {first}-{last}: the base has {shape.n_layer}",
            f"--layers takes blocks from 0 to {shape.n_layer - 1}",
        )
    return range(first, last + 1)


def _by_part(tensors: Tensors) -> Counter[str]:
    """Sum sizes over blocks: `h.3.attn.c_attn.bias` counts for `attn.c_attn`."""
    sizes: Counter[str] = Counter()
    for name, size in tensors.items():
        module = name.rpartition(".")[0]
        sizes[module.split(".", 2)[2] if module.startswith("h.") else module] += prod(size)
    return sizes
