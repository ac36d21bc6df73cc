"""Reading weights, safetensors only, and the digest that names them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from timm_gam.core import CheckpointError


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file into memory.

    Raises:
        CheckpointError: no such file, a folder, a pickle, or a damaged file.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"no file '{path}'; name a safetensors file")
    if path.is_dir():
        raise CheckpointError(f"'{path}' is a folder; name the safetensors file in it, or use local-dir:{path}")
    try:
        return load_file(path)
    except SafetensorError as error:
        kind = _guess_format(path)
        raise CheckpointError(f"'{path}' is {kind}; only safetensors files are read ({error})") from error
    except OSError as error:
        raise CheckpointError(f"cannot read '{path}': {error.strerror or error}") from error


def weights_digest(state_dict: Mapping[str, Tensor]) -> str:
    """SHA-256 over (name, dtype, shape, bytes) of every tensor in order of name: the identity of weights.

    It covers what a network computes with and nothing of the file it came in.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        tensor = state_dict[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _guess_format(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(4)
    if head[:2] == b"PK" or head[:1] == b"\x80":
        return "a pickled PyTorch checkpoint"
    return "not a whole safetensors file" if head else "an empty file"
