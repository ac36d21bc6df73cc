"""Queries and what is found for them, as one picture: for a README, or the card of a published model."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from eval.results.result import RetrievalResult
from timm_gam.data import ImageSet
from timm_gam.images import picture_grid, small_picture

_QUERY, _RIGHT, _WRONG = "#222222", "#2e9e5b", "#d33f3f"


def ranking_picture(result: RetrievalResult, images: ImageSet, queries: Sequence[str], shown: int = 6) -> Image.Image:
    """A row for each query: the query, then the images ranked first, errors framed in red.

    Args:
        result: Of `images`, as `eval.evaluate` gives it.
        images: Where the pictures are.
        queries: Ids of queries.
        shown: Images a row, besides the query.

    Raises:
        UnreadableImageError: one of the images cannot be decoded.

    >>> import eval
    >>> scenes = eval.draw_synthetic(2)
    >>> eval.ranking_picture(eval.evaluate("test_resnet_gam.corel", scenes), scenes, ["reef/0000"], 2).size
    (468, 108)
    """

    def picture(name: str) -> Image.Image:
        [(_, encoded)] = images.reader.read([images.ids.index(name)])
        return small_picture(encoded, name, side=144)

    return picture_grid(
        [
            [
                (picture(query), _QUERY),
                *(
                    (picture(found.id), _RIGHT if found.relevant else _WRONG)
                    for found in result.ranking(query, n=shown).ranked
                ),
            ]
            for query in queries
        ],
        lead=12,
    )
