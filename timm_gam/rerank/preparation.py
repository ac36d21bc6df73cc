"""Vectors as a recipe ranks them, made block by block and kept in memory only as far as that goes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from timm_gam.core import OutputError
from timm_gam.rerank.unit_vectors import Vectors, tensor_of

_BLOCK_BYTES = 2**23


def prepared(
    vectors: Vectors,
    transform: Callable[[Tensor], Tensor] | None,
    *,
    rows: NDArray[np.int64] | None = None,
    dim: int | None = None,
    device: torch.device | str = "cpu",
    memory: int = 128 * 2**20,
) -> Tensor:
    """Chosen rows of vectors, transformed: as they came where nothing changes, else in memory or a temporary file.

    Args:
        vectors: (N, D) floats.
        transform: (B, D) -> (B, W); None where they stay as they are.
        rows: Which, and in which order; None for all.
        dim: W; default D.
        device: Where they are wanted; on a GPU they are held whole.
        memory: Bytes that may be held on the CPU; what is larger lies in a temporary file that is mapped, and is gone
            with the tensor.

    Raises:
        OutputError: the folder for temporary files has no room.
    """
    source, place = tensor_of(vectors), torch.device(device)
    if transform is None and rows is None:
        return source.to(place)
    count, width = len(source) if rows is None else len(rows), dim or source.shape[1]
    made = _room(count, width, source.dtype, place, memory)
    step = max(1, _BLOCK_BYTES // (8 * source.shape[1]))
    for start in range(0, count, step):
        some = slice(start, min(start + step, count))
        block = source[some] if rows is None else source[torch.from_numpy(rows[some])]
        block = block.to(place)
        made[some] = block if transform is None else transform(block)
    return made


def _room(count: int, width: int, dtype: torch.dtype, device: torch.device, memory: int) -> Tensor:
    size = count * width * dtype.itemsize
    if device.type != "cpu" or size <= memory:
        return torch.empty(count, width, dtype=dtype, device=device)
    try:
        with tempfile.TemporaryFile() as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error here, not a signal later
            kind = np.dtype(str(dtype).removeprefix("torch."))
            return torch.from_numpy(np.memmap(file, dtype=kind, mode="r+", shape=(count, width)))
    except OSError as error:
        raise OutputError(
            f"no room for {size / 2**20:.0f} MB of vectors in '{tempfile.gettempdir()}': {error.strerror}; name "
            "another folder in TMPDIR, or raise --memory-budget"
        ) from error
