"""Reading weights: safetensors only, and never a checkpoint that does not fit.

timm loads non-strictly as soon as the class count differs or `features_only` is set, so a checkpoint without its
attention tensors would load without a word. The checks here come before that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from timm_gam.core import CheckpointError

__all__ = [
    "adopt_backbone",
    "check_backbone_complete",
    "check_safetensors",
    "compare_tensors",
    "name_some",
    "read_safetensors",
    "weights_digest",
]


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file into memory.

    Raises:
        CheckpointError: no such file, a folder, a pickle, or a damaged file.
    """
    check_safetensors(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"cannot read '{path}': {error}") from error


def check_safetensors(path: str | Path) -> None:
    """Read the header of a safetensors file, and no tensor.

    Raises:
        CheckpointError: no such file, a folder, a pickle, or a damaged file.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"no file '{path}'; name a safetensors file")
    if path.is_dir():
        raise CheckpointError(f"'{path}' is a folder; name the safetensors file in it, or use local-dir:{path}")
    try:
        with safe_open(path, framework="pt"):
            pass
    except SafetensorError as error:
        kind = _looks_like(path)
        raise CheckpointError(f"'{path}' is {kind}; only safetensors files are read ({error})") from error
    except OSError as error:
        raise CheckpointError(f"cannot read '{path}': {error.strerror or error}") from error


def compare_tensors(
    state_dict: Mapping[str, Tensor], model: nn.Module, ignore: Sequence[str] = ()
) -> tuple[list[str], list[str], list[str]]:
    """Names (missing, unexpected, of another shape) between a state dict and a model.

    Args:
        state_dict: Tensors that came.
        model: What they are for.
        ignore: Prefixes of names that need not agree, such as "fc.".

    Returns:
        Three lists of names. Counters of batch norm (`num_batches_tracked`) may be missing: no output needs them.
    """
    own = model.state_dict()
    prefixes = tuple(ignore)

    def counts(name: str) -> bool:
        return not name.startswith(prefixes) if prefixes else True

    missing = [n for n in own if n not in state_dict and counts(n) and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in state_dict if n not in own and counts(n)]
    misshapen = [n for n in state_dict if n in own and state_dict[n].shape != own[n].shape and counts(n)]
    return missing, unexpected, misshapen


def check_backbone_complete(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Refuse a state dict that lacks or changes any tensor but the classifier; otherwise return it unchanged.

    timm calls this (`pretrained_filter_fn`) before it loads pretrained weights into one of our models. The first
    convolution may have other input channels: timm adapts it.

    Raises:
        CheckpointError: names the tensors that are missing, unexpected or of another shape.
    """
    cfg = getattr(model, "pretrained_cfg", {})
    classifier, first_conv = cfg.get("classifier") or "fc", cfg.get("first_conv") or "conv1"
    missing, unexpected, misshapen = compare_tensors(state_dict, model, ignore=[f"{classifier}."])
    adapted = f"{first_conv}.weight"
    misshapen = [name for name in misshapen if name != adapted]
    if missing or unexpected or misshapen:
        raise CheckpointError(
            f"the checkpoint does not fit {cfg.get('architecture', type(model).__name__)}: "
            + "; ".join(
                f"{len(names)} tensors {what} ({name_some(names)})"
                for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
                if names
            )
            + "; to start from a plain backbone use timm_gam.from_backbone"
        )
    return state_dict


def adopt_backbone(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Check a state dict as `check_backbone_complete` does, then give the model the tensors themselves.

    timm would copy them, and hold the new model and the whole file in memory at once. Only for tensors that nobody else
    holds, such as those of a file just read. The classifier is left to timm, which may want a new one.

    Raises:
        CheckpointError: as `check_backbone_complete`.
    """
    check_backbone_complete(state_dict, model)
    classifier = f"{getattr(model, 'pretrained_cfg', {}).get('classifier') or 'fc'}."
    for name, own in model.state_dict(keep_vars=True).items():
        tensor = state_dict.get(name)
        same_kind = tensor is not None and (tensor.shape, tensor.dtype, tensor.device) == (
            own.shape,
            own.dtype,
            own.device,
        )
        if same_kind and not name.startswith(classifier):
            own.data = tensor
    return state_dict


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


def name_some(names: Sequence[str], most: int = 3) -> str:
    """The first names and how many more there are, for one line."""
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _looks_like(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(4)
    if head[:2] == b"PK" or head[:1] == b"\x80":
        return "a pickled PyTorch checkpoint"
    return "not a whole safetensors file" if head else "an empty file"
