"""Image-retrieval evaluation of any timm model: images -> embeddings -> rankings -> metrics.

Each step is a function over plain arrays that can be called alone; `python -m eval.retrieval` chains them.

    images = eval.read_folder("photos")
    loaded = eval.load_model("resnet50.a1_in1k")
    network = eval.embedding_network(loaded.model)
    embeddings = eval.embed_images(network, images, eval.resolve_preprocessing(loaded.model))
    scores = eval.score_retrieval(embeddings.vectors, images.labels)
    print(scores.averages["map"].micro)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eval.embedding import Embeddings, embed_images
    from eval.errors import (
        DataError,
        EmbeddingError,
        EvalError,
        MachineError,
        ModelError,
        OutputError,
        UnreadableImageError,
    )
    from eval.evaluate import RetrievalResult, Settings, evaluate_model
    from eval.images import ImageSet
    from eval.integer_vectors import FixedPoint, fixed_point
    from eval.metrics import metric_names, query_metrics
    from eval.models import LoadedModel, embedding_network, load_model
    from eval.preprocessing import Preprocessing, resolve_preprocessing
    from eval.protocols import Protocol, choose_protocol
    from eval.ranking import RelevantRanks, rank_relevant
    from eval.scoring import RetrievalScores, score_retrieval
    from eval.sources.folder import read_folder
    from eval.sources.hub_dataset import read_hub_dataset
    from eval.sources.pair import pair_query_gallery
    from eval.sources.parquet import read_parquet
    from eval.splits import published_class_split, published_split
    from eval.synthetic import draw_synthetic

# Where each public name lives. Imported on first use, so that `--help` does not wait for torch.
_HOMES = {
    "eval.embedding": ("Embeddings", "embed_images"),
    "eval.errors": (
        "DataError",
        "EmbeddingError",
        "EvalError",
        "MachineError",
        "ModelError",
        "OutputError",
        "UnreadableImageError",
    ),
    "eval.evaluate": ("RetrievalResult", "Settings", "evaluate_model"),
    "eval.integer_vectors": ("FixedPoint", "fixed_point"),
    "eval.images": ("ImageSet",),
    "eval.metrics": ("metric_names", "query_metrics"),
    "eval.models": ("LoadedModel", "embedding_network", "load_model"),
    "eval.preprocessing": ("Preprocessing", "resolve_preprocessing"),
    "eval.protocols": ("Protocol", "choose_protocol"),
    "eval.ranking": ("RelevantRanks", "rank_relevant"),
    "eval.scoring": ("RetrievalScores", "score_retrieval"),
    "eval.sources.folder": ("read_folder",),
    "eval.sources.hub_dataset": ("read_hub_dataset",),
    "eval.sources.pair": ("pair_query_gallery",),
    "eval.sources.parquet": ("read_parquet",),
    "eval.splits": ("published_class_split", "published_split"),
    "eval.synthetic": ("draw_synthetic",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "DataError",
    "EmbeddingError",
    "Embeddings",
    "EvalError",
    "FixedPoint",
    "ImageSet",
    "LoadedModel",
    "MachineError",
    "ModelError",
    "OutputError",
    "Preprocessing",
    "Protocol",
    "RelevantRanks",
    "RetrievalResult",
    "RetrievalScores",
    "Settings",
    "UnreadableImageError",
    "choose_protocol",
    "draw_synthetic",
    "embed_images",
    "embedding_network",
    "evaluate_model",
    "fixed_point",
    "load_model",
    "metric_names",
    "pair_query_gallery",
    "published_class_split",
    "published_split",
    "query_metrics",
    "rank_relevant",
    "read_folder",
    "read_hub_dataset",
    "read_parquet",
    "resolve_preprocessing",
    "score_retrieval",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'eval' has no attribute '{name}'; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
