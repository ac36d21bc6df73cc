"""Proof of a publication: what a user pulls is what was published, bit for bit."""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import is_model_in_modules
from torch import Tensor

from timm_gam.core import UploadError, one_line, temporary_folder
from timm_gam.models import COREL_TAG, weights_digest


def verify_published(folder: Path, repo_id: str, commit: str) -> list[str]:
    """Pull a published model into empty caches, every way a user does, and compare with the folder it came from.

    Tensors must be equal bit for bit, and so must the logits of one fixed input.

    Args:
        folder: The repository as it was built.
        repo_id: Where it was published.
        commit: The commit to pull.

    Returns:
        The ways it was pulled: "hf-hub:", and "pretrained=True" for a variant of ours.

    Raises:
        UploadError: it cannot be pulled, or something else came.
    """
    ways: list[tuple[str, str, dict[str, Any]]] = [("hf-hub:", f"hf-hub:{repo_id}@{commit}", {})]
    architecture, size, digest, logits = _facts(f"local-dir:{folder}")
    if is_model_in_modules(architecture, ["attention_resnet"]):
        overlay = {"hf_hub_id": f"{repo_id}@{commit}", "file": None, "num_classes": logits.shape[1]}
        arguments = {"pretrained_cfg": COREL_TAG, "pretrained_cfg_overlay": overlay, "num_classes": logits.shape[1]}
        ways.insert(0, ("pretrained=True", architecture, arguments))
    for way, model, arguments in ways:
        with temporary_folder("verify") as cache:
            try:
                *_, found, answer = _facts(model, size, cache_dir=cache, **arguments)
            except Exception as error:  # of the Hub's client, which timm's own path calls
                raise UploadError(f"'{repo_id}' is published, but pulling it back failed: {one_line(error)}") from error
        if found != digest or not torch.equal(answer, logits):
            raise UploadError(
                f"'{repo_id}' is published, but {way} gives other weights ({found[:12]}... for {digest[:12]}...); "
                "do not use it, and publish again"
            )
    return [way for way, _, _ in ways]


def _facts(
    model: str, size: tuple[int, int, int] | None = None, **arguments: Any
) -> tuple[str, tuple[int, int, int], str, Tensor]:
    """Architecture, input size, digest of the weights, and logits (1, C) of a fixed input."""
    network = timm.create_model(model, pretrained=True, **arguments).eval()
    _return_freed_memory()
    size = size or tuple(network.pretrained_cfg["input_size"])
    pixels = torch.randn(1, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits: Tensor = network(pixels)
    return str(network.pretrained_cfg["architecture"]), size, weights_digest(network.state_dict()), logits


def _return_freed_memory() -> None:
    """Hand back what the model's initialisation took: glibc keeps freed blocks, here up to half the weights' size."""
    with contextlib.suppress(OSError, TypeError, AttributeError):  # no glibc, nothing to do
        ctypes.CDLL(None).malloc_trim(0)
