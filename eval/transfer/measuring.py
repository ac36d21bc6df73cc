"""What is measured of a run: validation as it trains, then the test split and what its gates are worth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eval.evaluation.evaluator import RetrievalEvaluator
from eval.scoring.retrieval_scores import score_retrieval
from timm_gam.data import ImageSet
from timm_gam.embed import EmbedSettings, embed_images, embedding_network
from timm_gam.images import resolve_preprocessing
from timm_gam.models import frozen_gates, gate_layers, load_model, measure_gates, shuffled_gates
from timm_gam.train import Recipe, RunFolder, TrainingSplit

PER_QUERY = ("map", "hit@1", "hit@10", "precision@10")
_BATCH = {"cpu": 64, "cuda": 256}
_GATE_IMAGES = 1000


class TransferEvaluator(RetrievalEvaluator):
    """Validates as training does; reads the test split of final runs alone, and looks at their gates as well.

    Attributes:
        epochs: A row of metrics.csv per epoch.
        values: Keys of the record -> values.
        vectors: (Q, D) float32 test embeddings of a final run.
    """

    def __init__(self, final: bool, seed: int) -> None:
        self.final, self.seed = final, seed
        self.epochs: list[dict[str, float]] = []
        self.values: dict[str, Any] = {}
        self.vectors: NDArray[np.float32] | None = None

    def test(  # type: ignore[override]
        self, folder: RunFolder, recipe: Recipe, images: ImageSet, split: TrainingSplit, *, device: str, note: str
    ) -> None:
        """Measure the best weights of a run folder."""
        model = load_model(recipe.model, checkpoint=folder.best).model.to(device)
        preprocessing = resolve_preprocessing(model, img_size=recipe.img_size)

        def pixels(rows: NDArray[np.int64]) -> Tensor:
            settings = EmbedSettings(batch_size=64, workers=0, device="cpu", limits=recipe.limits)
            flat = embed_images(nn.Flatten(), images, preprocessing, settings, rows=rows).vectors
            return torch.from_numpy(flat).view(-1, *preprocessing.input_size).to(device)

        self.measure(model, pixels, images.labels, split)

    def measure(
        self,
        model: nn.Module,
        pixels: Callable[[NDArray[np.int64]], Tensor],
        labels: NDArray[np.int64],
        split: TrainingSplit,
    ) -> None:
        """Measure a trained model.

        Args:
            model: In eval mode, on its device.
            pixels: Rows -> (N, 3, H, W) float32 network input on that device.
            labels: (N,) class of every image.
            split: Its test queries are read of a final run alone.
        """
        values = self.values
        values["parameters"] = sum(p.numel() for p in model.parameters())
        if not self.final:
            return
        rows = split.needed_test().query
        test, classes = pixels(rows), labels[rows]
        order = np.random.Generator(np.random.PCG64(self.seed)).permutation(len(test))
        self.vectors = embed_pixels(model, test)
        values["test"] = _scores(self.vectors, classes)
        if not any(True for _ in gate_layers(model)):
            return
        # The mean is taken over a share of the training images: test images decide nothing.
        uses = measure_gates(model, _batches(pixels(split.train[:: max(1, len(split.train) // _GATE_IMAGES)])))
        values["gates"] = [
            {"layer": name, "level": use.level, "over_images": use.over_images, "over_values": use.over_values}
            for name, use in uses.items()
        ]
        with frozen_gates(model, uses):
            values["test_gates_frozen"] = {"map": _scores(embed_pixels(model, test), classes)["map"]}
        with shuffled_gates(model):
            shuffled = _scores(embed_pixels(model, test[order]), classes[order])
        values["test_gates_shuffled"] = {"map": shuffled["map"][np.argsort(order)]}


def _scores(vectors: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Leave-one-out metrics of each query."""
    per_query = score_retrieval(vectors, labels, ks=(1, 10), intervals="none").per_query
    return {name: per_query[name] for name in PER_QUERY}


def embed_pixels(model: nn.Module, pixels: Tensor) -> NDArray[np.float32]:
    """(N, D) embeddings of (N, 3, H, W) network input."""
    network = embedding_network(model)
    with torch.inference_mode():
        vectors: NDArray[np.float32] = torch.cat([network(batch).float() for batch in _batches(pixels)]).cpu().numpy()
    return vectors


def _batches(pixels: Tensor) -> Iterator[Tensor]:
    return iter(pixels.split(_BATCH.get(pixels.device.type, 64)))  # type: ignore[no-untyped-call]
