"""What a safetensors file says of the training of its weights: how images were prepared, and which they were.

Of each image it keeps 8 bytes of the SHA-256 of its encoded bytes, which tell whether a given image was among them
and nothing else. They stand in the file's own metadata, so they go wherever the weights go.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from timm_gam.core import CheckpointError, OutputError, atomic_path, one_line

METADATA_KEY = "timm_gam.train"
"""One JSON value: several keys would stand in random order, and the same weights would not give the same bytes."""

PREPROCESSING_KEYS = ("input_size", "crop_pct", "crop_mode", "interpolation", "mean", "std")

_MOST = 2_000_000  # images: a header of 21 MB, and the Hub's client reads none above 25


def _none() -> NDArray[np.uint64]:
    return np.zeros(0, dtype=np.uint64)


@dataclass(frozen=True, eq=False)
class TrainingRecord:
    """How weights were made, as far as it matters to whoever scores them.

    Attributes:
        preprocessing: timm's data config that they were trained or published with; empty where it is not known.
        trained: Sorted uint64, `Digests.shortened` of the images they were trained on; empty where those are not known.
        validated: The same of the images by which the epoch was chosen.
    """

    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    trained: NDArray[np.uint64] = field(default_factory=_none)
    validated: NDArray[np.uint64] = field(default_factory=_none)

    def with_images_of(self, earlier: TrainingRecord) -> TrainingRecord:
        """The record of weights that began as others, and have seen what those had."""
        trained, validated = (
            np.union1d(mine, theirs)
            for mine, theirs in ((self.trained, earlier.trained), (self.validated, earlier.validated))
        )
        return TrainingRecord(self.preprocessing, trained, validated)

    @property
    def keeps_images(self) -> bool:
        """Whether a file has room for a digest of every image."""
        return len(self.trained) + len(self.validated) <= _MOST

    def as_plain(self) -> dict[str, Any]:
        """Values for JSON; without the images where they are more than two million."""
        plain: dict[str, Any] = {"preprocessing": dict(self.preprocessing)} if self.preprocessing else {}
        if len(self.trained) + len(self.validated) and self.keeps_images:
            plain["trained_images"], plain["validated_images"] = _packed(self.trained), _packed(self.validated)
        return plain


def read_training_record(path: str | Path) -> TrainingRecord:
    """The record in a safetensors file; an empty one where there is none.

    Raises:
        CheckpointError: the file cannot be read, or holds a record of another shape.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
        plain = {} if text is None else json.loads(text)
        known = {key: plain.get("preprocessing", {}).get(key) for key in PREPROCESSING_KEYS}
        preprocessing = {k: tuple(v) if isinstance(v, list) else v for k, v in known.items() if v is not None}
        trained, validated = (_unpacked(plain.get(f"{what}_images", "")) for what in ("trained", "validated"))
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"the training record in '{path}' cannot be read: {one_line(error)}") from error
    return TrainingRecord(preprocessing, trained, validated)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors as they compute as safetensors, with `about` in the metadata; the same give the same bytes.

    Raises:
        OutputError: the file cannot be written; what was there before stays.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(plain, temporary, {"format": "pt", **({METADATA_KEY: json.dumps(about)} if about else {})})
            _order_metadata(temporary)
        except SafetensorError as error:
            advice = "make room, then run it again, a training with --resume"
            raise OutputError(f"cannot write '{path}': {error}; {advice}") from error


def _order_metadata(path: Path) -> None:
    """Put the keys of the metadata in order, in place, as the library leaves them in any; and the file on the disk."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= length:
            file.seek(8)
            file.write(text.ljust(length))
        file.flush()
        os.fsync(file.fileno())  # a rename may reach the disk before what it names does, and the power fail between


def _packed(digests: NDArray[np.uint64]) -> str:
    return base64.b64encode(digests.astype(">u8").tobytes()).decode()


def _unpacked(text: str) -> NDArray[np.uint64]:
    return np.unique(np.frombuffer(base64.b64decode(text, validate=True), dtype=">u8").astype(np.uint64))
