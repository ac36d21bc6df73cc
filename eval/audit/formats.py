"""Rankings and judgements in the files of the field, told apart by what is in them.

    TREC run        query Q0 item rank score tag                           text, one row a line
    MTEB            {"mteb_model_meta": ..., subset: {split: {query: {item: score}}}}      JSON
    similarities    {query: {item: score}}   (ILIAS; BEIR results)                         JSON
    neighbours      (Q, K) integers: row q holds gallery rows, best first                  .npy
    ranks           (G, Q) integers: column q holds gallery rows, best first (revisited Oxford and Paris)     .npy

    TREC qrels      query 0 item grade                                     text, one row a line
    BEIR qrels      query-id, corpus-id, score                             tab separated with a header
    judgements      {query: {item: grade}}                                                 JSON
    revisited       [{"easy": [...], "hard": [...], "junk": [...]}, ...] gallery rows of each query        JSON

A pickle is never read: it runs code.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from eval.audit.ranking import Ranking
from eval.results.result import RetrievalResult
from eval.scoring.qrels import Qrels
from timm_gam.core import DataError, one_line

Setup = Literal["easy", "medium", "hard"]
SETUPS: dict[Setup, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}
"""Of the revisited sets: (relevant, ignored) parts of each setup (Radenovic et al. 2018, section 3.2)."""

_RUN = "a TREC run, MTEB predictions or {query: {item: score}} as JSON, or neighbours as .npy"
_QRELS = "TREC or BEIR qrels, {query: {item: grade}} or the revisited sets' lists as JSON"


def read_ranking(
    path: Path, *, subset: str | None = None, split: str | None = None, ranks_by_column: bool = False
) -> Ranking:
    """Read a ranking.

    Args:
        path: The file; its content says which format it is.
        subset: Of MTEB predictions that hold several.
        split: Likewise.
        ranks_by_column: A .npy holds a query in each column, as the revisited sets have it.

    Raises:
        DataError: no such file, or none of the formats.

    >>> _ = Path("run.json").write_text('{"q1": {"a": 0.9, "b": 0.5}}')
    >>> read_ranking(Path("run.json")).items
    ('a', 'b')
    """
    data = _bytes(path, _RUN)
    if path.suffix == ".npy":
        return _neighbours(path, data, ranks_by_column)
    text = _text(path, data, _RUN)
    if text.lstrip()[:1] == "{":
        content = _json(path, text, _RUN)
        if "mteb_model_meta" in content:
            content = _mteb(path, content, subset, split)
        return Ranking.from_mapping(path.name, _scores(path, content))
    return _trec_run(path, text)


def read_result(path: Path) -> tuple[Ranking, Qrels]:
    """Read a result that `RetrievalResult.save` wrote: what it ranked, and its classes as judgements.

    Raises:
        DataError: no such file, or no result.
    """
    result = RetrievalResult.load(path)
    ids = np.array(result.ids, dtype=object)
    queries = np.repeat(ids[result.query], result.neighbours.shape[1])
    ranking = Ranking.from_rows(path.name, queries, ids[result.neighbours.ravel()], result.similarities.ravel())
    of_class = {
        label: dict.fromkeys(ids[result.gallery[result.labels[result.gallery] == label]], 1)
        for label in np.unique(result.query_labels).tolist()
    }
    labels = zip(result.query.tolist(), result.query_labels.tolist(), strict=True)
    grades = {ids[row]: {item: 1 for item in of_class[label] if item != ids[row]} for row, label in labels}
    return ranking, Qrels(grades)


def read_qrels(path: Path, *, setup: Setup = "medium", self_matches: bool = False) -> Qrels:
    """Read judgements.

    Args:
        path: The file; its content says which format it is.
        setup: Of the revisited sets.
        self_matches: See `Qrels`.

    Raises:
        DataError: no such file, none of the formats, or no relevant item.

    >>> _ = Path("qrels.json").write_text('{"q1": {"a": 1, "b": 0}}')
    >>> read_qrels(Path("qrels.json")).relevant("q1")
    {'a': 1}
    """
    text = _text(path, _bytes(path, _QRELS), _QRELS)
    start = text.lstrip()[:1]
    if start == "[":
        return _revisited(path, _json(path, text, _QRELS), setup)
    if start == "{":
        content = _json(path, text, _QRELS)
        grades = {
            str(query): {str(item): _grade(path, f"query '{query}'", grade) for item, grade in items.items()}
            for query, items in _mappings(path, content).items()
        }
        return Qrels(grades, self_matches=self_matches)
    return Qrels(_trec_qrels(path, text), self_matches=self_matches)


def _trec_run(path: Path, text: str) -> Ranking:
    queries, items, ranks, scores = [], [], [], []
    for number, line in enumerate(text.splitlines(), 1):
        cells = line.split()
        if not cells:
            continue
        if len(cells) != 6:
            raise DataError(
                f"'{path}' line {number} has {len(cells)} fields; a run has 6: query Q0 item rank score tag"
            )
        try:
            ranks.append(int(cells[3]))
            scores.append(float(cells[4]))
        except ValueError as error:
            raise DataError(f"'{path}' line {number}: {error}; rank is a whole number and score a number") from error
        queries.append(cells[0])
        items.append(cells[2])
    return Ranking.from_rows(path.name, queries, items, np.array(scores), np.array(ranks, dtype=np.int64))


def _trec_qrels(path: Path, text: str) -> dict[str, dict[str, int]]:
    grades: dict[str, dict[str, int]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        cells = line.split()
        if not cells or (number == 1 and cells[0] == "query-id"):
            continue
        if len(cells) not in (3, 4):
            raise DataError(
                f"'{path}' line {number} has {len(cells)} fields; legal: query 0 item grade, or query item grade"
            )
        query, item, grade = cells[0], cells[-2], _grade(path, f"line {number}", cells[-1])
        judged = grades.setdefault(query, {})
        if judged.get(item, grade) != grade:
            raise DataError(f"'{path}' line {number} gives '{item}' another grade than before; keep one of them")
        judged[item] = grade
    return grades


def _revisited(path: Path, content: Any, setup: Setup) -> Qrels:
    relevant, ignored = SETUPS[setup]
    grades: dict[str, dict[str, int]] = {}
    junk: dict[str, frozenset[str]] = {}
    for number, query in enumerate(content):
        if not isinstance(query, dict) or not all(
            isinstance(query.get(part), list) for part in ("easy", "hard", "junk")
        ):
            raise DataError(f"'{path}' entry {number} lacks a list 'easy', 'hard' or 'junk'; legal: {_QRELS}")
        grades[str(number)] = {str(item): 1 for part in relevant for item in query[part]}
        junk[str(number)] = frozenset(str(item) for part in ignored for item in query[part])
    # Rows of the gallery are no ids of queries: row 3 is not query 3.
    return Qrels(grades, junk, self_matches=True)


def _neighbours(path: Path, data: bytes, by_column: bool) -> Ranking:
    try:
        rows = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # numpy refuses bad files in several ways
        raise DataError(f"'{path}' is no array: {one_line(error)}; legal: {_RUN}") from error
    if rows.ndim != 2 or rows.dtype.kind not in "iu":
        raise DataError(f"'{path}' holds {rows.shape} {rows.dtype}; neighbours are (Q, K) integers")
    rows = rows.T if by_column else rows
    query, place = np.nonzero(rows >= 0)  # -1 fills rows that have fewer
    items = rows[query, place]
    return Ranking.from_rows(path.name, query.astype(str).tolist(), items.astype(str).tolist(), None)


def _mteb(path: Path, content: Mapping[str, Any], subset: str | None, split: str | None) -> Any:
    found = {
        (name, part): results
        for name, parts in content.items()
        if name != "mteb_model_meta"
        for part, results in _mappings(path, parts).items()
    }
    wanted = {key: v for key, v in found.items() if subset in (None, key[0]) and split in (None, key[1])}
    if len(wanted) != 1:
        legal = ", ".join(f"--subset {name} --split {part}" for name, part in found)
        raise DataError(f"'{path}' holds {len(found)} rankings and {len(wanted)} of them are named; legal: {legal}")
    return next(iter(wanted.values()))


def _scores(path: Path, content: Any) -> dict[str, dict[str, float]]:
    try:
        return {
            str(query): {str(item): float(score) for item, score in items.items()}
            for query, items in _mappings(path, content).items()
        }
    except (TypeError, ValueError) as error:
        raise DataError(f"'{path}' holds a score that is no number: {one_line(error)}; legal: {_RUN}") from error


def _mappings(path: Path, content: Any) -> dict[str, Any]:
    if not isinstance(content, dict) or not all(isinstance(inner, dict) for inner in content.values()):
        raise DataError(f"'{path}' is JSON, but no {{query: {{item: number}}}}; legal: {_RUN}; {_QRELS}")
    return content


def _grade(path: Path, where: str, grade: Any) -> int:
    try:
        number = float(grade)
        if number != int(number) or abs(number) > 2**31:
            raise ValueError
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"'{path}' {where}: grade '{grade}' is no whole number") from error
    return int(number)


def _json(path: Path, text: str, legal: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"'{path}' is no JSON: {one_line(error)}; legal: {legal}") from error


def _bytes(path: Path, legal: str) -> bytes:
    if path.suffix in (".pkl", ".pickle", ".pth", ".pt"):
        raise DataError(f"'{path}' is a pickle, which runs code when it is read; save it as JSON or .npy: {legal}")
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise DataError(f"cannot read '{path}': {reason}; legal: {legal}") from error


def _text(path: Path, data: bytes, legal: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"'{path}' is no UTF-8 text; legal: {legal}") from error
