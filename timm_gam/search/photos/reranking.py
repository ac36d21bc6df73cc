"""Photographs ranked by more than their cosine with a query: by what is near them in the whole collection."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from timm_gam.rerank import Recipe, UnitVectors
from timm_gam.search.photos.catalogue import PhotoFilter
from timm_gam.search.photos.photo_index import Collection, Match, PhotoIndex


def search_reranked(
    index: PhotoIndex,
    collection: Collection,
    query: NDArray[np.float32],
    recipe: Recipe,
    k: int = 10,
    chosen: PhotoFilter | None = None,
) -> list[Match]:
    """As `PhotoIndex.search`, in the order of a recipe; the score of a match still is its cosine.

    Every vector of the collection is read, and what a re-ranking prepares is prepared anew: seconds for 10,000.

    Raises:
        DataError: the collection has too few photographs for the recipe.
    """
    digests, embeddings = index.catalogue.digests(PhotoFilter()), index.embeddings(collection)
    digests = digests.take(~embeddings.missing(digests))
    vectors = embeddings.read(digests)
    queries = torch.from_numpy(query[None].astype(np.float32))
    reranker = recipe.reranker(recipe.prepare(queries), recipe.prepare(vectors))
    order = reranker.block(slice(0, 1))[0].argsort(descending=True, stable=True)
    cosines = UnitVectors(vectors).similarities(normalize(queries))[0]
    return index.matches(((digests[row], float(cosines[row])) for row in order.tolist()), k, chosen)
