"""The processes of a run: one, or several that torchrun started, each with a device and a share of the work."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from timm_gam.core.errors import DataError, PeerError, TimmGamError

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among those of the run. Every process makes the same calls in the same order.

    Attributes:
        rank: 0 for the process that writes and prints.
        size: Number of processes.
        device: Of this process.
        leads_machine: Whether this process writes what the processes of its machine share.
    """

    rank: int
    size: int
    device: torch.device
    leads_machine: bool = True

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum of `values` over all processes, the same in each; `values` is replaced by it."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def least(self, values: Tensor) -> Tensor:
        """Likewise the least of each value."""
        if self.size > 1:
            dist.all_reduce(values, dist.ReduceOp.MIN)
        return values

    def broadcast(self, value: T, source: int) -> T:
        """The value of process `source`, in every process."""
        box = [value]
        if self.size > 1:
            dist.broadcast_object_list(box, source)
        return box[0]

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            self.sum(torch.zeros(1, device=self.device))

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def agree(self, what: str, value: str) -> None:
        """Make sure that all processes hold the same value.

        Raises:
            DataError: in every process, where they do not.
        """
        digests = self.gather(hashlib.sha256(value.encode()).hexdigest())
        other = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
        if other:
            raise DataError(
                f"{what} of process {other[0]} are not those of process 0; give every process and machine the same "
                "data and options"
            )

    def share(self, count: int, step: int) -> slice:
        """This process's consecutive share of `count` things that are worked on in steps of `step`."""
        steps = -(-count // step)
        first, last = (rank * steps // self.size for rank in (self.rank, self.rank + 1))
        return slice(min(first * step, count), min(last * step, count))


ALONE = World(0, 1, torch.device("cpu"))
"""A single process on the CPU."""


@contextmanager
def join_world(device: str | None, advice: str) -> Iterator[World]:
    """Join the processes of torchrun, where it started this one; leave them at the end.

    What is exchanged lies in main memory and goes through gloo; tensors on a GPU go through NCCL.

    Args:
        device: "cpu", "cuda", ...; None is cuda where there is one. Under torchrun "cuda" is each process's own.
        advice: What to do after another process ended.

    Raises:
        TimmGamError: the device cannot be used.
        PeerError: another process ended while this one needed it. Of several processes that end, the first one
            raises what ended it, and the others a PeerError without a message.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(0, 1, usable_device(device))
        return
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    own = usable_device(device, local)
    if own.type == "cuda":
        torch.cuda.set_device(own)
    store, rank, size = next(rendezvous("env://", rank, size))
    backend = "cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, store=PrefixStore("world", store), rank=rank, world_size=size)
        yield World(rank, size, own, leads_machine=local == 0)
    except (Exception, KeyboardInterrupt) as error:  # the others notice once the group is left, and come second
        if not _ends_first(store):
            raise PeerError("") from error
        if isinstance(error, RuntimeError) and _is_lost_connection(error):
            raise PeerError(f"process {rank} of {size} lost the others: one of them ended; {advice}") from error
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def usable_device(name: str | None, index: int | None = None) -> torch.device:
    """A device that is there: the one named, or else CUDA where there is one, else the CPU.

    Args:
        name: "cpu", "cuda", "cuda:1", "mps", ...; None chooses.
        index: Of the device where `name` is CUDA without one.

    Raises:
        TimmGamError: it cannot be used here.

    >>> usable_device("cpu")
    device(type='cpu')
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and index is not None:
        name = f"cuda:{index}"
    try:
        made = torch.empty(1, device=name)
        made.cpu()  # "meta" makes tensors but holds no values
    except (RuntimeError, AssertionError) as error:  # torch raises either, by device type
        reason = str(error).splitlines()[0]
        raise TimmGamError(
            f"device '{name}' cannot be used: {reason}; legal here: cpu, or an accelerator you have"
        ) from error
    return made.device


def _ends_first(store: Store) -> bool:
    try:
        return int(store.add("ended", 1)) == 1
    except RuntimeError:  # the store has ended too
        return True


def _is_lost_connection(error: RuntimeError) -> bool:
    """By its text, as gloo raises nothing but a RuntimeError."""
    text = str(error).lower()
    return any(sign in text for sign in ("connection closed", "connection reset", "broken pipe", "nccl", "gloo"))
