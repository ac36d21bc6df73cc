"""The one result object: what was ranked for each query, what that scored, and what it was made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eval.results.document import ClassRecord
from eval.results.facts import Facts
from eval.scoring.metrics import DEFAULT_KS
from eval.scoring.ranking import DEFAULT_MEMORY_BUDGET
from eval.scoring.retrieval_scores import Intervals
from eval.scoring.statistics.influence import Influence
from eval.scoring.statistics.intervals import Average, class_means
from timm_gam.core import DataError
from timm_gam.data import ImageSet
from timm_gam.embed import EmbedSettings
from timm_gam.rerank import Recipe
from timm_gam.search import Distance

if TYPE_CHECKING:
    import pandas as pd

    from eval.results.comparison import Comparison

DEPTH = 100
"""Ranked images that a result keeps for each query."""

HEADLINE = ("hit@1", "hit@10", "precision@10", "ndcg@10", "map@r", "map")
"""The six metrics that are shown unless all are asked for."""


@dataclass(frozen=True)
class Settings:
    """How embeddings are made and scored; the defaults are the command line's.

    >>> import eval
    >>> settings = Settings(distance="euclidean", ks=(1, 2))
    >>> vectors = [[1.0, 0], [0.9, 0.1], [0, 1.0], [0.1, 0.9]]
    >>> eval.score(vectors, [0, 0, 1, 1], settings=settings).averages["hit@2"].micro
    1.0
    """

    embed: EmbedSettings = EmbedSettings()
    distance: Distance = "cosine"
    ks: Sequence[int] = DEFAULT_KS
    intervals: Intervals = "auto"  # what the 95 % intervals are for
    memory_budget: int = DEFAULT_MEMORY_BUDGET  # bytes for ranking beyond the embeddings
    cache_folder: Path | None = None  # None: embeddings are not kept
    depth: int = DEPTH  # ranked images kept for each query
    recipe: Recipe = field(default_factory=Recipe)  # what is done with the embeddings before and while they are ranked


@dataclass(frozen=True)
class Ranked:
    """One image in a query's ranking: its cosine similarity to the query (or Euclidean distance) and its truth."""

    id: str
    class_name: str
    score: float
    relevant: bool


@dataclass(frozen=True)
class QueryRanking:
    """A query, one metric of it in [0, 1], and the images ranked for it, best first."""

    id: str
    class_name: str
    metric: str
    value: float
    ranked: list[Ranked]


@dataclass(frozen=True, repr=False, eq=False)
class RetrievalResult:
    """Q queries ranked against a gallery and scored, from `eval.score` or `eval.evaluate`.

    Attributes:
        ids: N image ids, of queries and gallery.
        labels: (N,) int64, index into `class_names`.
        class_names: Names of all classes.
        query: (Q,) int64 rows of `ids` that are queries.
        gallery: (G,) int64 rows of `ids` that are ranked.
        neighbours: (Q, K) int64 rows of `ids`, the exactly nearest first, of equal ones the lower row; K is at most
            DEPTH. The query itself is left out. Metrics see the whole ranking, not only these.
        scores: (Q, K) float32, their cosine similarity to the query in [-1, 1], Euclidean distance, or what a
            re-ranking gave.
        per_query: Metric name -> (Q,) float64 in [0, 1]; NaN for queries without relevant images.
        averages: Metric name -> average over the scored queries, with intervals.
        facts: Model, data, protocol, preprocessing, timings.
        images: The images themselves, where they are known; neither saved nor loaded.
        plain: The plain ranking of the same embeddings, where this is a better one; neither saved nor loaded.
        influence: What gallery images do to the averages, where the intervals are for other images or classes.
    """

    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    query: NDArray[np.int64]
    gallery: NDArray[np.int64]
    neighbours: NDArray[np.int64]
    scores: NDArray[np.float32]
    per_query: dict[str, NDArray[np.float64]]
    averages: dict[str, Average]
    facts: Facts
    images: ImageSet | None = field(default=None)
    plain: RetrievalResult | None = field(default=None)
    influence: Influence | None = field(default=None)

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.facts.name

    @cached_property
    def scored(self) -> NDArray[np.bool_]:
        """(Q,) False for queries without relevant images, which no average counts."""
        return np.isfinite(next(iter(self.per_query.values())))

    @property
    def query_labels(self) -> NDArray[np.int64]:
        """(Q,) class of each query."""
        return self.labels[self.query]

    @cached_property
    def relevant(self) -> NDArray[np.bool_]:
        """(Q, K) whether each neighbour has the query's class."""
        relevant: NDArray[np.bool_] = self.labels[self.neighbours] == self.query_labels[:, None]
        return relevant

    @property
    def similarities(self) -> NDArray[np.float64]:
        """(Q, K) `scores` of which the higher is the nearer: Euclidean distances are negated."""
        scores = self.scores.astype(np.float64)
        return -scores if self.facts.protocol.distance == "euclidean" else scores

    def ranking(self, query: int | str, n: int = 10, metric: str = "map") -> QueryRanking:
        """What was ranked for one query, by its place in `query` or its id.

        Raises:
            DataError: no such query or metric.
        """
        place = self._place(query)
        rows = self.neighbours[place, :n]
        ranked = [
            Ranked(self.ids[row], self.class_names[self.labels[row]], float(score), bool(relevant))
            for row, score, relevant in zip(rows, self.scores[place], self.relevant[place], strict=False)
        ]
        row = self.query[place]
        value = float(self.metric(metric)[place])
        return QueryRanking(self.ids[row], self.class_names[self.labels[row]], metric, value, ranked)

    def metric(self, name: str) -> NDArray[np.float64]:
        """(Q,) values of a metric.

        Raises:
            DataError: no such metric; the message lists those there are.
        """
        if name not in self.per_query:
            raise DataError(f"no metric '{name}' in this result; it has {', '.join(self.per_query)}")
        return self.per_query[name]

    def failures(self, n: int = 10, metric: str = "map", *, best: bool = False) -> list[QueryRanking]:
        """The n scored queries with the lowest metric (`best`: the highest), worst first; ties in query order.

        Raises:
            DataError: the result lacks the metric, or n is below 1.
        """
        if n < 1:
            raise DataError(f"{n} queries were asked for; at least 1 is needed")
        values = self.metric(metric)
        places = np.flatnonzero(self.scored)
        order = places[np.argsort(-values[places] if best else values[places], kind="stable")]
        return [self.ranking(int(place), metric=metric) for place in order[:n]]

    def per_class(self) -> list[ClassRecord]:
        """One entry per class with scored queries: its name, their number, and the mean of each metric."""
        values = {name: column[self.scored] for name, column in self.per_query.items()}
        return [
            ClassRecord.model_validate({"class": self.class_names[label], "queries": queries, "metrics": means})
            for label, queries, means in class_means(values, self.query_labels[self.scored])
        ]

    def confusion(self, k: int = 10) -> NDArray[np.float64]:
        """(C, C) share of the first k images ranked for queries of class i that have class j; rows sum to 1.

        A class without queries has a row of zeros. k is cut at the kept depth.
        """
        classes = len(self.class_names)
        found = self.labels[self.neighbours[:, :k]]
        pairs = self.query_labels[:, None] * classes + found
        counts = np.bincount(pairs.ravel(), minlength=classes * classes).reshape(classes, classes)
        shares: NDArray[np.float64] = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        return shares

    def compare(self, other: RetrievalResult, metric: str = "map") -> Comparison:
        """This result less another on the same queries: paired difference, 95 % interval, permutation test.

        Raises:
            DataError: the queries or their classes differ, or a result lacks the metric.
        """
        from eval.results.comparison import compare_metrics

        return compare_metrics(self, other, [metric])[metric]

    def to_pandas(self) -> pd.DataFrame:
        """One row per query: id, class, every metric, and the nearest image with its class and score."""
        import pandas as pd  # comes with datasets

        first = self.neighbours[:, 0]
        names = np.array(self.class_names, dtype=object)
        columns: dict[str, Any] = {
            "class": names[self.query_labels],
            **self.per_query,
            "nearest": [self.ids[row] for row in first],
            "nearest_class": names[self.labels[first]],
            "nearest_score": self.scores[:, 0],
        }
        return pd.DataFrame(columns, index=pd.Index([self.ids[row] for row in self.query], name="id"))

    def save(self, path: str | Path) -> None:
        """Write all but the images to one safetensors file, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        from eval.results.storage import save_result

        save_result(self, Path(path))

    @staticmethod
    def load(path: str | Path, images: ImageSet | None = None) -> RetrievalResult:
        """Read what `save` wrote; nothing of it is trusted or run.

        Args:
            path: The file.
            images: The image set it was made from, where pictures are wanted.

        Raises:
            DataError: no such file, no result, or other images.
        """
        from eval.results.storage import load_result

        result = load_result(Path(path))
        return result if images is None else result.with_images(images)

    def with_images(self, images: ImageSet) -> RetrievalResult:
        """The same result with the photographs that it was made from, for pictures.

        Raises:
            DataError: they are others.
        """
        if missing := set(self.ids) - set(images.ids):
            raise DataError(
                f"'{images.name}' lacks {len(missing)} of the {len(self.ids)} images that {self.name} was scored on, "
                f"such as '{min(missing)}'; name those it scored"
            )
        return replace(self, images=images)

    def headline(self) -> dict[str, Average]:
        """The averages that are shown unless all are asked for."""
        return {name: self.averages[name] for name in HEADLINE if name in self.averages} or self.averages

    def __repr__(self) -> str:
        shown = ", ".join(f"{name} {100 * average.micro:.2f}" for name, average in self.headline().items())
        protocol = self.facts.protocol
        return (
            f"RetrievalResult({self.name!r} on {self.facts.data.name!r}: {protocol.queries_scored} queries, "
            f"{protocol.gallery} gallery images; in %: {shown})"
        )

    def _repr_html_(self) -> str:
        from eval.tables.metric_tables import result_html

        return result_html(self)

    def _place(self, query: int | str) -> int:
        if isinstance(query, str):
            places = np.flatnonzero([self.ids[row] == query for row in self.query])
            if not len(places):
                raise DataError(f"'{query}' is no query of this result; the first is '{self.ids[self.query[0]]}'")
            return int(places[0])
        if not -len(self.query) <= query < len(self.query):
            raise DataError(f"query {query} was asked for; this result has {len(self.query)}")
        return query
