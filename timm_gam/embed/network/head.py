"""A learned head: frozen embeddings -> vectors in which images of a class lie closer."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from timm_gam.core import CheckpointError, atomic_path

_FORMAT: Final = "timm-gam/head/1"


@dataclass(frozen=True)
class HeadFacts:
    """What a head belongs to and how it was trained.

    Attributes:
        weights: SHA-256 of the network whose embeddings it takes, as `WeightsInfo.sha256`.
        layer: Of these embeddings.
        views: Of these embeddings, as `EmbedSettings.views`.
        loss: What it was trained by, or "whitening".
        trained_on: In words.
        power: Every component x of an embedding becomes sign(x) |x|^power first.
    """

    weights: str
    layer: str
    loss: str
    trained_on: str
    views: dict[str, Any] = field(default_factory=dict)
    power: float = 1.0


class Head(nn.Module):
    """(N, D) float embeddings -> (N, W) float of length 1: power, length 1, centre, layers with ReLU between them.

    Args:
        facts: What it belongs to.
        mean: (D,) is subtracted.
        weights: Of each layer, (out, in).
        biases: Of each layer, (out,).
    """

    mean: Tensor

    def __init__(self, facts: HeadFacts, mean: Tensor, weights: list[Tensor], biases: list[Tensor]) -> None:
        super().__init__()
        self.facts = facts
        self.register_buffer("mean", mean)
        self.weights = nn.ParameterList(weights)
        self.biases = nn.ParameterList(biases)

    def forward(self, embeddings: Tensor) -> Tensor:
        return F.normalize(self.projected(embeddings), dim=1)

    def projected(self, embeddings: Tensor) -> Tensor:
        """The same before it is brought to length 1."""
        x = F.normalize(power_of(embeddings.flatten(1).to(self.mean), self.facts.power), dim=1) - self.mean
        for place, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = F.linear(x if place == 0 else F.relu(x), weight, bias)
        return x

    @property
    def layers(self) -> list[int]:
        """Dimensions that come in, of each layer between, and that come out."""
        return [len(self.mean), *(len(bias) for bias in self.biases)]

    def save(self, path: Path) -> None:
        """Write it as safetensors, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        tensors = {name: tensor.detach().float().contiguous() for name, tensor in self.state_dict().items()}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, {"format": _FORMAT, "facts": json.dumps(asdict(self.facts))})


def power_of(vectors: Tensor, power: float) -> Tensor:
    """sign(x) |x|^power of every component (Perronnin, Sanchez, Mensink, ECCV 2010, section 3.2)."""
    return vectors if power == 1 else vectors.sign() * vectors.abs() ** power


def read_head(path: Path) -> Head:
    """Read what `Head.save` wrote; nothing of it is run.

    Raises:
        CheckpointError: no such file, or no head.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
        if metadata.get("format") != _FORMAT:
            raise CheckpointError(f"'{path}' is no head: its format is not {_FORMAT}; train one with timm-gam head")
        facts = HeadFacts(**json.loads(metadata["facts"]))
        count = sum(name.startswith("weights.") for name in tensors)
        weights, biases = ([tensors[f"{kind}.{i}"] for i in range(count)] for kind in ("weights", "biases"))
        head = Head(facts, tensors["mean"], weights, biases).eval().requires_grad_(False)
        if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
            raise ValueError("it holds NaN or infinity")
        head(torch.zeros(1, len(tensors["mean"])))  # the layers fit
    except CheckpointError:
        raise
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
        raise CheckpointError(f"cannot read the head '{path}': {error}; train one with timm-gam head") from error
    return head
