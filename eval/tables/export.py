"""A result in the formats of the field: TREC, MTEB's predictions, parquet, the Hub's evaluation files, timm's CSV.

What writes a file raises OutputError where it cannot, and leaves none.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from eval.results.result import RetrievalResult
from timm_gam.core import DataError, atomic_path, is_hub_id, write_text

_METRICS = ("map", "map@r", "hit@1", "hit@10", "precision@10")


def write_trec_run(result: RetrievalResult, path: Path, depth: int | None = None) -> None:
    """Write `query Q0 item rank score tag`, one row a ranked image; white space in ids is percent-encoded.

    `depth` ranks of each query, default all that the result keeps.
    """
    tag = _token(result.name)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for query, ranked in _rankings(result, depth):
            for rank, (item, score) in enumerate(ranked, 1):
                # repr of a float32 read back as float64 is that very float32: no order is lost on the way
                file.write(f"{_token(query)} Q0 {_token(item)} {rank} {score!r} {tag}\n")


def write_trec_qrels(result: RetrievalResult, path: Path) -> None:
    """Write `query 0 item 1` for every gallery image with the query's class but the query itself."""
    ids = [_token(name) for name in result.ids]
    of_class = {label: result.gallery[result.labels[result.gallery] == label] for label in set(result.labels.tolist())}
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for query in result.query.tolist():
            for item in of_class[int(result.labels[query])].tolist():
                if item != query:
                    file.write(f"{ids[query]} 0 {ids[item]} 1\n")


def write_mteb_predictions(
    result: RetrievalResult, path: Path, *, split: str = "test", depth: int | None = None
) -> None:
    """Write the file that MTEB saves as TASK_predictions.json: {"default": {split: {query: {item: score}}}}."""
    weights = result.facts.weights
    content = {
        "mteb_model_meta": {"model_name": result.name, "revision": weights.sha256[:40] if weights else None},
        "default": {split: {query: dict(ranked) for query, ranked in _rankings(result, depth)}},
    }
    write_text(path, json.dumps(content))


def write_ranking_parquet(result: RetrievalResult, path: Path, depth: int | None = None) -> None:
    """Write one row a ranked image: query, rank from 1, item, score, relevant, and the classes of both."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kept = result.neighbours[:, :depth]
    ids, names = np.array(result.ids, dtype=object), np.array(result.class_names, dtype=object)
    query = np.repeat(result.query, kept.shape[1])
    columns: dict[str, Any] = {
        "query": ids[query],
        "rank": np.tile(np.arange(1, kept.shape[1] + 1, dtype=np.int32), len(kept)),
        "item": ids[kept.ravel()],
        "score": result.scores[:, :depth].ravel(),
        "relevant": result.relevant[:, :depth].ravel(),
        "query_class": names[result.labels[query]],
        "item_class": names[result.labels[kept.ravel()]],
    }
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns), temporary)


def write_eval_results(result: RetrievalResult, path: Path, dataset_id: str, *, revision: str | None = None) -> None:
    """Write the result as entries of a model repository's `.eval_results/NAME.yaml`, which the Hub reads.

    Each metric is a task of the benchmark data set, named as here ("map", "hit@1", ...), its value in per cent.

    Args:
        result: A result.
        path: The file.
        dataset_id: The benchmark data set on the Hub, "owner/name".
        revision: Its commit.

    Raises:
        DataError: `dataset_id` is no Hub id.
    """
    averages, protocol = result.averages, result.facts.protocol
    scores = {name: averages[name].micro for name in _METRICS if name in averages}
    write_hub_scores(path, dataset_id, scores, protocol.description, protocol.distance, revision=revision)


def write_hub_scores(
    path: Path,
    dataset_id: str,
    scores: Mapping[str, float],
    protocol: str,
    distance: str,
    *,
    revision: str | None = None,
) -> None:
    """`write_eval_results` of shares by the name of their metric, with the description and distance of their protocol.

    Raises:
        DataError: `dataset_id` is no Hub id.

    >>> write_hub_scores(Path("corel.yaml"), "me/corel", {"map": 0.345}, "leave-one-out", "cosine")
    >>> print(Path("corel.yaml").read_text().splitlines()[3])
      value: 34.5
    """
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    if not is_hub_id(dataset_id):
        raise DataError(f"'{dataset_id}' is no Hub id of a data set; one reads owner/name")
    notes = f"{protocol}; {distance}; ties by expectation; timm-gam"
    entries = [
        EvalResultEntry(dataset_id, name, round(100 * score, 4), dataset_revision=revision, notes=notes)
        for name, score in scores.items()
    ]
    write_text(path, yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True))


def results_csv(results: Sequence[RetrievalResult]) -> str:
    """Results as timm keeps its own (`results/*.csv`), best mAP first: scores in per cent, parameters in millions.

    A cell is empty where a result does not have it.
    """
    import pandas as pd

    rows = sorted((_row(result) for result in results), key=lambda row: -float(row["map"] or 0))
    text: str = pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")
    return text


def _row(result: RetrievalResult) -> dict[str, str]:
    facts, averages = result.facts, result.averages
    model, prep, timings = facts.model, facts.preprocessing, facts.timings
    per_cent = {name: f"{100 * averages[name].micro:.3f}" if name in averages else "" for name in _METRICS}
    low, high = (f"{100 * end:.3f}" for end in averages["map"].micro_interval or (math.nan, math.nan))
    timed = timings.images_embedded and timings.embedding_seconds
    return {
        "model": result.name,
        "img_size": str(prep.input_size[-1]) if prep else "",
        "map": per_cent["map"],
        "map_low": low.replace("nan", ""),
        "map_high": high.replace("nan", ""),
        "hit1": per_cent["hit@1"],
        "hit10": per_cent["hit@10"],
        "precision10": per_cent["precision@10"],
        "mapr": per_cent["map@r"],
        "param_count": f"{model.parameters / 1e6:.2f}" if model else "",
        "crop_pct": f"{prep.crop_pct:g}" if prep else "",
        "interpolation": prep.interpolation if prep else "",
        "embed_dim": str(model.embedding_dim) if model else "",
        "samples_per_sec": f"{timings.images_embedded / timings.embedding_seconds:.2f}" if timed else "",
    }


def _rankings(result: RetrievalResult, depth: int | None) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """Each query and what is ranked for it, with scores of which the higher is the nearer."""
    for query, items, scores in zip(result.query, result.neighbours, result.similarities, strict=True):
        names = [result.ids[item] for item in items[:depth]]
        yield result.ids[query], list(zip(names, scores[:depth].tolist(), strict=True))


@lru_cache(maxsize=2**16)  # a name stands in many rankings: a million of 10,000 names cost 0.3 s for 2.9 s
def _token(name: str) -> str:
    """A name as one field of a line: white space and control characters percent-encoded, and the percent sign."""
    return "".join(c if c.isprintable() and not c.isspace() and c != "%" else quote(c) for c in name) or "%"
