"""Count the parameters of a base, of a method and of its file: closed forms, without torch.

Names are those of Hugging Face's GPT-2. A part sums one module over all blocks: `attn.c_attn`, `ln_1`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from explora.core.config.method import Method, Tensors
from explora.core.config.registry import Shape

FLOAT32_BYTES = 4
HEADER_ALIGNMENT = 8
HEAD = "score"
PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True, kw_only=True)
class Part:
    """One kind of module: its number of parameters, and how many of them a method trains."""

    total: int
    trainable: int


@dataclass(frozen=True, kw_only=True)
class Count:
    """Parameters by part for a method on a base, and the size of the file with the trained ones."""

    parts: dict[str, Part]
    adapter_bytes: int

    @property
    def total(self) -> int:
        """Parameters of the base, whose tied head counts once, and of the task's own head."""
        return sum(part.total for part in self.parts.values())

    @property
    def trainable(self) -> int:
        """Parameters that the method trains, including a task's own head."""
        return sum(part.trainable for part in self.parts.values())

    @property
    def share(self) -> float:
        """Trained parameters as a share of all."""
        return self.trainable / self.total

    def to_json(self) -> dict[str, Any]:
        """Return the object of `params --json`, without the prediction of memory."""
        return {
            "total": self.total,
            "trainable": self.trainable,
            "share": self.share,
            "adapter_bytes": self.adapter_bytes,
            "parts": {name: asdict(part) for name, part in self.parts.items()},
        }


def count(shape: Shape, method: Method, classes: int = 0, header: str = "") -> Count:
    """Count the parameters for a base of this shape; `classes` is the width of the linear head, 0 for none.

    `header` is the adapter's description (`adapter.Header.to_json`), which is part of the file. Raises
    UsageError for settings that do not fit the base.
    """
    held = _by_part(model_tensors(shape, classes))
    trained = _by_part(trained_shapes(shape, method, classes))
    names = dict.fromkeys([*held, *trained])
    metadata = {"format": "pt"} if method.trains_base else {"explora": header}
    return Count(
        parts={name: Part(total=held[name], trainable=trained[name]) for name in names},
        adapter_bytes=file_bytes(file_tensors(shape, method, classes), metadata),
    )


def base_tensors(shape: Shape) -> Tensors:
    """Return the shapes of all weights by the names of GPT2Model; matrices in blocks are (in, out)."""
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


def model_tensors(shape: Shape, classes: int) -> Tensors:
    """Return the shapes of the base's weights and of a linear head with `classes` outputs, 0 for none."""
    return base_tensors(shape) | _head_tensor(shape, classes)


def file_tensors(shape: Shape, method: Method, classes: int = 0) -> Tensors:
    """Return the shapes of the tensors that a run saves, by their names in its file.

    If the base is trained, the names are those of a transformers model, else PEFT's.
    """
    prefix = "" if method.trains_base else PEFT_PREFIX
    own = {f"{prefix}transformer.{name}": size for name, size in method.file_shapes(shape).items()}
    return own | {prefix + name: size for name, size in _head_tensor(shape, classes).items()}


def file_bytes(tensors: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> int:
    """Return the size of a safetensors file with these fp32 tensors.

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
    """Return the shapes of the weights of one block, in the order of computation."""
    return {
        "ln_1": (width,),
        "attn.c_attn": (width, 3 * width),
        "attn.c_proj": (width, width),
        "ln_2": (width,),
        "mlp.c_fc": (width, 4 * width),
        "mlp.c_proj": (4 * width, width),
    }


def trained_shapes(shape: Shape, method: Method, classes: int) -> Tensors:
    """Return the shapes of all tensors with gradients: those that the method trains, and the task's head."""
    return method.trained_shapes(shape) | _head_tensor(shape, classes)


def _head_tensor(shape: Shape, classes: int) -> Tensors:
    return {f"{HEAD}.weight": (classes, shape.n_embd)} if classes else {}


def _by_part(tensors: Tensors) -> Counter[str]:
    """Sum sizes over blocks: `h.3.attn.c_attn.bias` counts for `attn.c_attn`."""
    sizes: Counter[str] = Counter()
    for name, size in tensors.items():
        module = name.rpartition(".")[0]
        sizes[module.split(".", 2)[2] if module.startswith("h.") else module] += prod(size)
    return sizes
