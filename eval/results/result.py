"""What one model scored on one image set under one protocol, and everything needed to repeat it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.scoring.metrics import DEFAULT_KS
from eval.scoring.ranking import DEFAULT_MEMORY_BUDGET
from eval.scoring.retrieval_scores import RetrievalScores
from timm_gam.data import ImageSet, Protocol
from timm_gam.embed import EmbedSettings
from timm_gam.images import Preprocessing
from timm_gam.models import ModelInfo
from timm_gam.search import Distance

__all__ = ["RetrievalResult", "Settings"]


@dataclass(frozen=True)
class Settings:
    """How embeddings are made and scored; the defaults are the command line's."""

    embed: EmbedSettings = EmbedSettings()
    distance: Distance = "cosine"
    ks: Sequence[int] = DEFAULT_KS
    replicates: int = 1000  # bootstrap replicates of the 95 % intervals
    seed: int = 0  # of the bootstrap
    memory_budget: int = DEFAULT_MEMORY_BUDGET  # bytes for ranking beyond the embeddings
    cache_folder: Path | None = None  # None: embeddings are not kept


@dataclass(frozen=True)
class RetrievalResult:
    """A scored run and what it was made of. `eval.results.record` turns it into a table or JSON."""

    model: ModelInfo
    images: ImageSet
    protocol: Protocol
    preprocessing: Preprocessing
    settings: Settings
    scores: RetrievalScores
    dim: int
    fingerprint: str
    unreadable: dict[str, str]
    queries_with_duplicate: int  # queries whose gallery holds another image with the very same bytes
    images_embedded: int  # in this run; the other embeddings were kept from earlier ones
    processes: int
    optimizations: list[str]  # what `EmbedSettings.optimize` did to the network; empty where it embedded nothing
    embed_seconds: float
    score_seconds: float

    @property
    def from_cache(self) -> bool:
        """Whether every embedding was kept from an earlier run."""
        return self.images_embedded == 0
