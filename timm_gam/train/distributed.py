"""The processes of a run: one, or several that torchrun started, each with a device and a share of every batch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from timm_gam.train.errors import PeerError, RecipeError

__all__ = ["World", "join_world"]


@dataclass(frozen=True)
class World:
    """This process among those of the run.

    Attributes:
        rank: 0 for the process that writes and prints.
        size: Number of processes.
        device: Of this process.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum of `values` over all processes, the same in each; `values` is replaced by it."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            self.sum(torch.zeros(1, device=self.device))


@contextmanager
def join_world(device: str | None) -> Iterator[World]:
    """Join the processes of torchrun, where it started this one; leave them at the end.

    Args:
        device: Of the recipe; under torchrun "cuda" is each process's own.

    Raises:
        RecipeError: the device cannot be used.
        PeerError: another process ended while this one needed it.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if size == 1:
        yield World(0, 1, _usable(kind))
        return
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    own = _usable(f"{kind}:{local}" if kind == "cuda" else kind)
    if own.type == "cuda":
        torch.cuda.set_device(own)
    dist.init_process_group("nccl" if own.type == "cuda" else "gloo", rank=rank, world_size=size)
    try:
        yield World(rank, size, own)
    except RuntimeError as error:
        if _is_lost_connection(error):
            raise PeerError(f"process {rank} of {size} lost the others: one of them ended; --resume goes on") from error
        raise
    finally:
        dist.destroy_process_group()


def _usable(name: str) -> torch.device:
    try:
        return torch.empty(1, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch raises either, by device type
        reason = str(error).splitlines()[0]
        raise RecipeError(
            f"device '{name}' cannot be used: {reason}; legal here: cpu, or an accelerator you have"
        ) from error


def _is_lost_connection(error: RuntimeError) -> bool:
    text = str(error).lower()
    return any(sign in text for sign in ("connection closed", "connection reset", "broken pipe", "nccl", "gloo"))
