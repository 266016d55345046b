"""The processes that train one model together: data parallelism on torch.distributed, started by torchrun.

Each process has the whole model and computes its share of every batch. The gradients are added up before the
optimizer step (Li et al. 2020, "PyTorch Distributed"), so all processes take the same step. Only gradients of
trained parameters are sent: a LoRA adapter is small enough for an ordinary network.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from explora.core.machine.launch import local_rank, world_size
from explora.errors import ProcessError

BUCKET = 1 << 24  # numbers added up in one message: few messages, little extra memory
TIMEOUT = "EXPLORA_TIMEOUT"  # environment variable: seconds
PATIENCE = 600.0  # seconds: longer than the slowest task of a single process
GO_ON = "continue from the last saved state: torchrun --max-restarts N -m explora train ... --resume"
LAST_WORDS = 5.0  # seconds to wait for answers of the running processes after one has hung

Row = TypeVar("Row")
Value = TypeVar("Value")
Numbers = TypeVar("Numbers", bound=NDArray[Any])


@dataclass(kw_only=True)
class Processes:
    """The processes of a training, seen from one of them. A single process sends nothing.

    rank: the number of this process; size: the number of processes; timeout: seconds to wait for a process
    that does not answer; sent: bytes of gradients that each process has sent so far.
    """

    rank: int = 0
    size: int = 1
    timeout: float = 0.0
    sent: int = 0
    asked_to_stop: bool = False
    agreed_to_stop: bool = False

    @property
    def leads(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def share(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Return this process's part of `rows`: every size-th row, to spread sorted lengths evenly."""
        return rows if self.size == 1 else rows[self.rank :: self.size]

    def add_gradients(self, trained: Sequence[nn.Parameter], losses: Sequence[Tensor]) -> list[Tensor]:
        """Replace each gradient by its sum over all processes; return the losses, summed in the same way.

        The processes also agree on whether to stop. Raises ProcessError if one does not answer in time.
        """
        if self.size == 1:
            return list(losses)
        for parameter in trained:
            if parameter.grad is None:  # the batch has no row for this process
                parameter.grad = torch.zeros_like(parameter)
        loss = sum(losses, torch.zeros((), device=trained[0].device)).to(torch.float32)
        stop = torch.full_like(loss, self.asked_to_stop)
        gradients = [value.grad for value in trained if value.grad is not None]
        self._add_in_place([*gradients, loss, stop])
        self.sent += sum(gradient.nbytes for gradient in gradients)
        self.agreed_to_stop = bool(stop)
        return [loss]

    def stop(self, wanted: bool) -> bool:
        """Return whether all processes stop now; they do one step after any of them has asked to stop."""
        self.asked_to_stop |= wanted
        return self.asked_to_stop if self.size == 1 else self.agreed_to_stop

    def add_up(self, numbers: Numbers) -> Numbers:
        """Return the sum of an array of numbers over all processes."""
        if self.size == 1:
            return numbers
        sums = numbers.copy()
        self._add_in_place([torch.from_numpy(sums)])
        return sums

    def decide(self, value: Value) -> Value:
        """Return the leading process's `value` in every process."""
        if self.size == 1:
            return value
        said = [value]
        with self._named():
            dist.broadcast_object_list(said, src=0, device=torch.device("cpu"))
        return said[0]

    def wait(self) -> None:
        """Wait until all processes have called this function."""
        self.decide(None)

    def gather(self, value: Value) -> list[Value]:
        """Return the values of all processes, ordered by rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        with self._named():
            dist.all_gather_object(found, value)
        return found

    def leave(self) -> None:
        """End the communication; afterwards, each process works alone."""
        if self.size > 1:
            dist.destroy_process_group()
            self.size = 1

    def _add_in_place(self, tensors: Sequence[Tensor]) -> None:
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.flatten() for tensor in bucket])
            with self._named():
                dist.all_reduce(flat)
            parts = torch.split(flat, [tensor.numel() for tensor in bucket])
            for tensor, part in zip(bucket, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Convert an error of torch's communication to a ProcessError that names the silent processes."""
        try:
            yield
        except (RuntimeError, dist.DistError) as error:
            if "timed out" not in str(error).lower():
                raise ProcessError("another process has ended, so this one cannot continue", GO_ON) from None
            numbers = ", ".join(str(rank) for rank in self._silent())
            raise ProcessError(
                f"no answer from process {numbers} of {self.size} within {self.timeout:.0f} s",
                f"check whether it still runs; if it is only slow, allow more time: {TIMEOUT}=SECONDS",
            ) from None

    def _silent(self) -> list[int]:
        """Return the processes that do not call this function in time: they hang or have ended."""
        store = dist.distributed_c10d._get_default_store()
        deadline = time.monotonic() + LAST_WORDS
        keys = [f"explora/waits/{rank}" for rank in range(self.size)]
        try:
            store.set(keys[self.rank], "")
            while not store.check(keys) and time.monotonic() < deadline:
                time.sleep(0.1)
            return [rank for rank, key in enumerate(keys) if not store.check([key])]
        except (RuntimeError, dist.DistError):  # the process with the store has ended
            return [0]


@contextmanager
def joined_processes() -> Iterator[Processes]:
    """Join the processes that torchrun has started with this one; without it, yield a single process."""
    if world_size() == 1:
        yield Processes()
        return
    seconds = float(os.environ.get(TIMEOUT, PATIENCE))
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank())
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    # After a restart by torchrun, the store still has the addresses of the processes that have ended.
    store, number, size = next(rendezvous("env://"))
    fresh = PrefixStore(f"explora/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    dist.init_process_group(
        backend, store=fresh, rank=number, world_size=size, timeout=timedelta(seconds=seconds)
    )
    processes = Processes(rank=number, size=size, timeout=seconds)
    try:
        yield processes
    finally:
        processes.leave()


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield groups of consecutive tensors of one type: up to BUCKET numbers, or one larger tensor."""
    bucket = list[Tensor]()
    for tensor in tensors:
        numbers = sum(each.numel() for each in bucket) + tensor.numel()
        if bucket and (numbers > BUCKET or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    yield bucket
