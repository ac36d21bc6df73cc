"""Results -> what a page shows, as plain values: pictures once, queries by number, numbers as they were scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from eval.report.chosen import RANKED, Chosen, choose_queries
from eval.report.explanation import Explanation
from eval.results.comparison import Comparison
from eval.results.record import document
from eval.results.result import RetrievalResult
from eval.tables.metric_tables import interval_lines
from timm_gam.data import ImageSet
from timm_gam.images import DecodeLimits, thumbnails

_MOST_IMAGES = 1300  # some 4 KB each
_CONFUSED = 12
_COMPARED = ("a", "b", "metric", "difference", "interval", "population", "p", "won", "lost", "tied")
_DECISIVE = 4  # queries most won and most lost


@dataclass
class _Pictures:
    """Numbers for images, in order of first use, with their classes."""

    known: dict[str, tuple[int, str]] = field(default_factory=dict)

    def __call__(self, result: RetrievalResult, row: int) -> int:
        class_name = result.class_names[result.labels[row]]
        return self.known.setdefault(result.ids[row], (len(self.known), class_name))[0]

    def as_list(self, images: ImageSet | None, limits: DecodeLimits) -> list[dict[str, str | None]]:
        uris: dict[str, str] = {}
        if images is not None:
            rows = [row for row, name in enumerate(images.ids) if name in self.known]
            uris = {images.ids[row]: uri for row, uri in thumbnails(images, rows, limits=limits)}
        return [{"id": name, "class": of, "uri": uris.get(name)} for name, (_, of) in self.known.items()]


def page_content(
    results: Sequence[RetrievalResult],
    comparisons: Sequence[Comparison],
    explanations: Sequence[Explanation | None],
    notes: Sequence[str] = (),
    limits: DecodeLimits = DecodeLimits(),
) -> dict[str, Any]:
    """Everything that the page of `write_report` holds, for JSON; comparisons are the first against each other one."""
    pictures = _Pictures()
    chosen = choose_queries(results, _MOST_IMAGES)
    content = {
        "document": document(results, notes),
        "intervals": "; ".join(interval_lines(results)),
        "models": [_model(result, some, pictures) for result, some in zip(results, chosen, strict=True)],
        "comparisons": [
            _comparison(c, results[0], other, pictures) for c, other in zip(comparisons, results[1:], strict=True)
        ],
        "near_duplicates": _near_duplicates(results[0], pictures),
        "explanations": [_explanation(explanation) for explanation in explanations],
    }
    images = next((result.images for result in results if result.images is not None), None)
    return {**content, "images": pictures.as_list(images, limits)}


def _model(result: RetrievalResult, chosen: Chosen, pictures: _Pictures) -> dict[str, Any]:
    places = chosen.places()
    number = {place: i for i, place in enumerate(places)}
    return {
        "name": result.name,
        "queries": [_query(result, place, pictures) for place in places],
        "worst": {name: [number[place] for place in found] for name, found in chosen.worst.items()},
        "best": {name: [number[place] for place in found] for name, found in chosen.best.items()},
        "random": [number[place] for place in chosen.random],
        "confused": _confused(result, pictures),
    }


def _query(result: RetrievalResult, place: int, pictures: _Pictures) -> dict[str, Any]:
    return {
        "image": pictures(result, int(result.query[place])),
        "metrics": {name: round(float(values[place]), 6) for name, values in result.per_query.items()},
        "ranked": [
            [pictures(result, int(row)), round(float(score), 6), int(relevant)]
            for row, score, relevant in zip(
                result.neighbours[place, :RANKED], result.scores[place], result.relevant[place], strict=False
            )
        ],
    }


def _confused(result: RetrievalResult, pictures: _Pictures) -> list[dict[str, Any]]:
    """The pairs of classes with the largest share of a class among the first images of another's queries."""
    shares = result.confusion(RANKED)
    np.fill_diagonal(shares, 0)
    found = []
    for flat in np.argsort(-shares, axis=None, kind="stable")[:_CONFUSED].tolist():
        true, other = divmod(flat, len(result.class_names))
        if shares[true, other] == 0:
            break
        query, match = _example(result, true, other)
        found.append(
            {
                "class": result.class_names[true],
                "other": result.class_names[other],
                "share": round(float(shares[true, other]), 6),
                "query": pictures(result, query),
                "match": pictures(result, match),
            }
        )
    return found


def _example(result: RetrievalResult, true: int, other: int) -> tuple[int, int]:
    """A query of one class and the image of another that was ranked highest for such a query."""
    places = np.flatnonzero(result.query_labels == true)
    ranks = result.labels[result.neighbours[places, :RANKED]] == other
    first = np.where(ranks.any(axis=1), ranks.argmax(axis=1), RANKED)
    best = int(first.argmin())
    return int(result.query[places[best]]), int(result.neighbours[places[best], first[best]])


def _near_duplicates(result: RetrievalResult, pictures: _Pictures) -> list[dict[str, Any]]:
    """The queries most like an image of their gallery, each pair once."""
    near = result.facts.near_duplicates
    row = {name: number for number, name in enumerate(result.ids)} if near is not None and near.examples else {}
    pairs = {frozenset((pair.query, pair.match)): pair for pair in reversed(near.examples if near is not None else [])}
    return [
        {
            "query": pictures(result, row[pair.query]),
            "match": pictures(result, row[pair.match]),
            "likeness": pair.likeness,
            "across_splits": pair.across_splits,
        }
        for pair in reversed(pairs.values())
    ]


def _comparison(comparison: Comparison, a: RetrievalResult, b: RetrievalResult, pictures: _Pictures) -> dict[str, Any]:
    order = np.argsort(np.nan_to_num(comparison.per_query), kind="stable")
    won = [place for place in order[::-1][:_DECISIVE].tolist() if comparison.per_query[place] > 0]
    lost = [place for place in order[:_DECISIVE].tolist() if comparison.per_query[place] < 0]
    return {
        **{name: getattr(comparison, name) for name in _COMPARED},
        "decisive": {
            kind: [{"a": _query(a, place, pictures), "b": _query(b, place, pictures)} for place in places]
            for kind, places in (("won", won), ("lost", lost))
        },
    }


def _explanation(explanation: Explanation | None) -> dict[str, Any] | None:
    if explanation is None:
        return None
    content = asdict(explanation)
    for seen in (match[side] for match in content["matches"] for side in ("query", "match")):
        seen["parts"] = seen["parts"].round(9).tolist()
    for gates in content["gates"]:
        gates["layers"] = {name: values.round(4).tolist() for name, values in gates["layers"].items()}
    return content
