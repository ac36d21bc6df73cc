"""Vectors and their labels -> a result: the plain ranking, and the one that a recipe makes of the same vectors."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eval.caveats.near_duplicates import NearPictures
from eval.results.comparison import compare_metrics
from eval.results.facts import (
    ClassGain,
    Facts,
    Gain,
    IntervalsRecord,
    ProtocolRecord,
    RecipeRecord,
    Timings,
    WhiteningRecord,
)
from eval.results.result import HEADLINE, RetrievalResult, Settings
from eval.scoring.reranked import RerankedScores, score_reranking
from eval.scoring.retrieval_scores import places, score_rankings
from eval.scoring.statistics.intervals import class_means
from timm_gam.core import ALONE, DataError, ProgressBar, World, no_progress
from timm_gam.data import ImageSet, Protocol
from timm_gam.models import weights_digest
from timm_gam.rerank import Recipe, Whitening
from timm_gam.search import ExactScorer, FixedPoint, Vectors, fixed_point, nearest, resident, scoring_device, slices

_QUERIES = 4096  # searched at a time: what a search holds of each is far more than what is kept of it


@dataclass(frozen=True)
class Ranking:
    """What is ranked for what.

    Attributes:
        vectors: (N, D) float.
        ids: N names.
        labels: (N,) int64 index into class_names.
        class_names: Of all classes.
        protocol: Holds rows of `vectors`.
        device: Where to rank.
        signatures: (N, 256) int8 of the pictures, where they are known: near-duplicates are found by them.
        splits: (N,) int64 the split each was published in, as a number; None without splits.
    """

    vectors: Vectors
    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    protocol: Protocol
    device: str
    signatures: NDArray[np.int8] | None = None
    splits: NDArray[np.int64] | None = None


def ranked_result(
    ranking: Ranking,
    settings: Settings,
    facts: Callable[[dict[str, Any]], Facts],
    *,
    images: ImageSet | None = None,
    fitted_on: str = "other vectors",
    progress: ProgressBar = no_progress,
    world: World = ALONE,
) -> RetrievalResult:
    """Metrics over whole rankings, and the first of each ranking.

    Args:
        ranking: What is ranked for what.
        settings: Its recipe is fitted, on what `fitted_on` says in words.
        facts: From what all results have in common to facts.
        images: The images, where they are known.

    Raises:
        DataError: the recipe does not go with the distance or the vectors.
    """
    recipe, protocol = settings.recipe, ranking.protocol
    if recipe.method is not None and settings.distance != "cosine":
        raise DataError(f"--rerank {recipe.method} came with {settings.distance} distance; it is over cosine only")
    near = None
    if ranking.signatures is not None:
        near = NearPictures(ranking.signatures, protocol, ranking.splits, ranking.device)
    scoring = _Scoring(ranking, settings, near, progress, world)
    began = time.perf_counter()
    found = scoring.exactly(ranking.vectors)
    scored = found.scores.scored
    of_protocol = ProtocolRecord(
        name=protocol.name,
        description=protocol.description,
        split_rule=protocol.split_rule,
        splits=list(protocol.splits),
        queries=len(protocol.query),
        queries_scored=int(scored.sum()),
        queries_without_relevant=int((~scored).sum()),
        gallery=len(protocol.gallery),
        distance=settings.distance,
    )
    common = {"protocol": of_protocol, "timings": Timings(**_seconds(began, found)), **scoring.facts(found)}
    plain = RetrievalResult(
        ids=ranking.ids,
        labels=ranking.labels,
        class_names=ranking.class_names,
        query=protocol.query,
        gallery=protocol.gallery,
        **scoring.columns(found),
        facts=facts(common),
        images=images,
    )
    if not recipe.name:
        return plain
    began = time.perf_counter()
    found = scoring.by_recipe()
    timings = plain.facts.timings.model_copy(update=_seconds(began, found))
    known = plain.facts.model_copy(update={"timings": timings, **scoring.facts(found)})
    better = replace(plain, **scoring.columns(found), facts=known, plain=plain)
    record = _record(better, plain, recipe, fitted_on)
    return replace(better, facts=known.model_copy(update={"recipe": record}))


def _seconds(began: float, found: RerankedScores) -> dict[str, Any]:
    return {"scoring_seconds": round(time.perf_counter() - began, 3), "scoring_products": found.scores.products}


@dataclass(frozen=True)
class _Scoring:
    """What a ranking is scored by, plain or with a recipe."""

    ranking: Ranking
    settings: Settings
    near: NearPictures | None
    progress: ProgressBar
    world: World

    def columns(self, found: RerankedScores) -> dict[str, Any]:
        """What a result holds of scores."""
        of_scores = {name: getattr(found.scores, name) for name in ("per_query", "averages", "influence")}
        return {"neighbours": self.ranking.protocol.gallery[found.rows], "scores": found.values, **of_scores}

    def facts(self, found: RerankedScores) -> dict[str, Any]:
        """What a result says of them."""
        near, without, ranking = self.near, found.without_near, self.ranking
        return {
            "intervals": IntervalsRecord(population=found.scores.population or "none"),
            "near_duplicates": near.record(ranking.ids, ranking.labels, without) if near and without else None,
        }

    def exactly(self, vectors: Vectors) -> RerankedScores:
        """By the distance of the vectors, without rounding."""
        ranking, settings, near, device = self.ranking, self.settings, self.near, scoring_device(self.ranking.device)
        query, gallery = ranking.protocol.query, ranking.protocol.gallery
        labels, own = (ranking.labels[query], ranking.labels[gallery]), places(query, gallery)
        vectors, memory = resident(vectors, device, settings.memory_budget)
        points = fixed_point(vectors, settings.distance, device=device)
        queries, ranked = points.take(query), points.take(gallery)
        with self.progress("scoring", "query", len(query)) as on_progress:
            scores = score_rankings(
                ExactScorer(queries, None if np.array_equal(query, gallery) else ranked, device=device),
                *labels,
                self_index=own,
                ks=settings.ks,
                intervals=settings.intervals,
                memory_budget=memory,
                on_progress=on_progress,
                world=self.world,
            )
        rows, values = self._nearest(queries, ranked, own)
        without = None
        if near is not None:
            without = near.scored_without(
                queries, ranked, labels, scores.per_query, ks=settings.ks, memory_budget=memory, world=self.world
            )
        return RerankedScores(scores, rows, values, without)

    def _nearest(
        self, queries: FixedPoint, ranked: FixedPoint, own: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(Q, K) places in the gallery, nearest first, without rounding, and their cosine similarities or distances."""
        within, world = bool((own >= 0).any()), self.world
        shape = len(queries), min(self.settings.depth, len(ranked) - within)
        rows, scores = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.float32)
        share = world.share(len(queries), _QUERIES)
        for some in slices(share.start, share.stop, _QUERIES):
            itself, part = own[some] if within else None, queries.take(np.arange(some.start, some.stop))
            found = nearest(part, ranked, shape[1], self_index=itself, device=scoring_device(self.ranking.device))
            rows[some], scores[some] = found.rows, queries.in_units(found.scores)
        return world.sum(torch.from_numpy(rows)).numpy(), world.sum(torch.from_numpy(scores)).numpy()

    def by_recipe(self) -> RerankedScores:
        """By the recipe. A re-ranking has two thirds of the memory; counting a block has the rest."""
        ranking, settings, near, recipe = self.ranking, self.settings, self.near, self.settings.recipe
        query, gallery = ranking.protocol.query, ranking.protocol.gallery
        device, kept = scoring_device(ranking.device), settings.memory_budget // 4
        if recipe.method is None:
            return self.exactly(recipe.prepare(ranking.vectors, device=device, memory=kept))
        whole = np.array_equal(gallery, np.arange(len(ranking.vectors)))
        ranked = recipe.prepare(ranking.vectors, rows=None if whole else gallery, device=device, memory=kept)
        queries = ranked
        if not np.array_equal(query, gallery):
            queries = recipe.prepare(ranking.vectors, rows=query, device=device, memory=kept)
        held = [] if whole and recipe.unchanged else [ranked.nbytes, 0 if queries is ranked else queries.nbytes]
        memory = (settings.memory_budget - sum(size for size in held if size <= kept)) // 3
        own = torch.from_numpy(places(query, gallery))
        reranker = recipe.reranker(queries, ranked, own=own, memory=2 * memory)
        with self.progress(recipe.name, "query", len(query)) as on_progress:
            return score_reranking(
                reranker,
                ranking.labels[query],
                ranking.labels[gallery],
                depth=settings.depth,
                ks=settings.ks,
                intervals=settings.intervals,
                near=None if near is None else near.found,
                memory_budget=memory,
                on_progress=on_progress,
                world=self.world,
            )


def _record(better: RetrievalResult, plain: RetrievalResult, recipe: Recipe, fitted_on: str) -> RecipeRecord:
    names = [name for name in HEADLINE if name in plain.averages]
    scored = plain.scored
    compared = compare_metrics(better, plain, names)
    differences = {name: found.per_query[scored] for name, found in compared.items()}
    whitening = None
    if isinstance(recipe.whitening, Whitening):
        parts = {"mean": recipe.whitening.mean, "projection": recipe.whitening.projection}
        whitening = WhiteningRecord(
            dimensions=len(recipe.whitening.projection), fitted_on=fitted_on, sha256=weights_digest(parts)
        )
    return RecipeRecord(
        name=recipe.name,
        power=recipe.power,
        whitening=whitening,
        method=recipe.method,
        options=dict(recipe.options),
        form="transductive" if recipe.transductive else "strict",
        gains={
            name: Gain(difference=found.difference, ci95=found.interval, p=found.p) for name, found in compared.items()
        },
        gains_per_class=[
            ClassGain.model_validate({"class": plain.class_names[label], "queries": queries, "differences": means})
            for label, queries, means in class_means(differences, plain.query_labels[scored])
        ],
        population=compared[names[0]].population,
    )
