"""Accounting of a training step's memory by tensor: each storage from its creation to its release.

It needs a step of its own, which is not timed. Memory inside kernels does not belong to a tensor and is not
counted.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from explora.core.bench.device import Clock, settled_memory_bytes
from explora.core.training.adamw import Optimizer

TEMPORARY = "temporaries"
TENSOR_PARTS = ("weights", "gradients", "optimizer", "activations", TEMPORARY)


def runtime_bytes(model: nn.Module, optimizers: Sequence[Optimizer]) -> int:
    """Return the memory of the process between two steps, without weights, gradients and optimizer state.

    Call it before `tensor_parts`, which imports a compiler and takes another step; the measured peak contains
    neither. The known tensors are subtracted, not freed, so a tensor with several owners counts once.
    """
    device = next(model.parameters()).device
    tracker = _Tracker(device, Clock(device))
    tracker.claim([value for _, _, value in _held(model)], "weights")
    tracker.claim([value.grad for value in model.parameters()], "gradients")
    tracker.claim(_state(optimizers), "optimizer")
    return settled_memory_bytes(device) - sum(storage.size for storage in tracker.alive.values())


def tensor_parts(
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    clock: Clock,
    step: Callable[[], object],
) -> Counter[str]:
    """Return the bytes of each part at the moment of `step` when the tensors together are largest.

    Activations are created in the clock's phase "forward" and still exist after it. Gradients end up in a
    parameter's `.grad`. Temporaries are all others, including what checkpointing recomputes.
    """
    tracker = _Tracker(next(model.parameters()).device, clock)
    tracker.claim([value for _, _, value in _held(model)], "weights")
    tracker.claim(_state(optimizers), "optimizer")

    def note_gradient(value: Tensor) -> None:
        tracker.claim([value.grad], "gradients")

    trained = [value for value in model.parameters() if value.requires_grad]
    hooks = [value.register_post_accumulate_grad_hook(note_gradient) for value in trained]  # type: ignore[no-untyped-call]
    with tracker:
        step()
    for hook in hooks:
        hook.remove()
    return tracker.largest()


def _state(optimizers: Sequence[Optimizer]) -> list[Tensor]:
    """Return the tensors of the optimizers' state."""
    state = [value for each in optimizers for values in each.state.values() for value in values.values()]
    return [value for value in state if isinstance(value, Tensor)]


def _held(model: nn.Module) -> list[tuple[nn.Module, str, Tensor]]:
    """Return module, name and value of every tensor in the model, parameter or not."""
    return [
        (module, name, value)
        for module in model.modules()
        for name, value in [
            *module.named_parameters(recurse=False),
            *module.named_buffers(recurse=False),
            *vars(module).items(),
        ]
        if isinstance(value, Tensor)
    ]


@dataclass(kw_only=True)
class _Storage:
    size: int
    phase: str
    part: str


class _Tracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside this context, records every storage that an operation creates on `device`, and its release."""

    def __init__(self, device: torch.device, clock: Clock) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device, self.clock = device, clock
        self.alive: dict[int, _Storage] = {}  # by address, which can be reused after the release
        self.changes: list[
            tuple[_Storage, int]
        ] = []  # in order: a storage with +1 (created) or -1 (released)

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = operation(*args, **(kwargs or {}))
        self.claim([value for value in tree_iter(result) if isinstance(value, Tensor)], None)
        return result

    def claim(self, tensors: Iterable[Tensor | None], part: str | None) -> None:
        """Record new storages; if `part` is given, also set their part."""
        for tensor in tensors:
            if tensor is None or tensor.device != self.device:
                continue
            tensor = tensor._values() if tensor.is_sparse else tensor
            known = self._of_packed(tensor) if tensor.is_mkldnn else self._of(tensor.untyped_storage())
            known.part = part or known.part

    def _of(self, storage: torch.UntypedStorage) -> _Storage:
        address = storage._cdata
        if address not in self.alive:
            self.alive[address] = self._begin(storage.nbytes())
            weakref.finalize(storage, self._end, address).atexit = False
        return self.alive[address]

    def _of_packed(self, tensor: Tensor) -> _Storage:
        """Record a tensor that oneDNN has packed: it has no storage, and exists as long as the model."""
        if id(tensor) not in self.alive:
            self.alive[id(tensor)] = self._begin(tensor.numel() * tensor.element_size())
        return self.alive[id(tensor)]

    def _begin(self, size: int) -> _Storage:
        begun = _Storage(size=size, phase=self.clock.current, part=TEMPORARY)
        self.changes.append((begun, 1))
        return begun

    def _end(self, address: int) -> None:
        ended = self.alive.pop(address)
        self.changes.append((ended, -1))
        if ended.part == TEMPORARY and ended.phase == "forward" != self.clock.current:
            ended.part = "activations"

    def largest(self) -> Counter[str]:
        """Return the bytes of each part at the moment when their sum was largest."""
        now, best, total, most = Counter[str](), Counter[str](), 0, 0
        for storage, sign in self.changes:
            now[storage.part] += sign * storage.size
            total += sign * storage.size
            if total > most:
                most, best = total, now.copy()
        return Counter({part: best[part] for part in TENSOR_PARTS})
